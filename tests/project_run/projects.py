"""A project in a directory of its own, with a home store, as `monofs` finds it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from store.repository import Repository
from tests.fuse.cli_command import plant
from tests.vm.hosts import Host
from vmm.project.folder import Folder
from vmm.project.state import Installed, State


def install(host: Host, folder: Folder, machines: Mapping[str, str], project: str = "shop") -> None:
    """Make .mc with a fork for each machine; the values are names in the home store."""
    home = host.store
    if not folder.store.exists():
        folder.mc.mkdir(mode=0o700, exist_ok=True)
        Repository.init(folder.store, bases=(home,)).close()
    with closing(Repository.open(home)) as source:
        trees = {name: source.resolve(name).tree for name in machines.values()}
    with closing(Repository.open(folder.store)) as repository, State(folder.mc) as state:
        for machine, base in machines.items():
            batch, stage = repository.batch("install")
            version = repository.publish(f"{project}/{machine}", trees[base], batch, stage, message="install")
            state.put_installed(Installed(machine, base, str(trees[base]), str(version)))


def project(host: Host, directory: Path, machines: Mapping[str, str], project: str = "shop") -> Folder:
    directory.mkdir(exist_ok=True)
    folder = Folder(directory)
    install(host, folder, machines, project)
    return folder


def base(host: Host, path: Path, name: str = "base") -> None:
    """A tree in the home store for machines that are plain processes."""
    host.ok("import", str(plant(path, {"f": b"old\n", "dir/g": b"g\n"})), "--name", name)
