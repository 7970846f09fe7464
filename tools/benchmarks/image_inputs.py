"""Ten images that share a base, in a registry on this machine: a Debian, and upon it files that differ a little.

The registry is Debian's docker-registry, and skopeo pushes to it: both are as for any image.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.oci import registries
from tests.oci.layouts import MTIME, Layout
from tests.oci.registries import Registry
from tools.benchmarks import inputs
from tools.benchmarks.bench import Bench, CommandFailed

COUNT: Final = 10
_APP_BYTES, _QUICK_APP_BYTES = 40 * inputs.MB, 2 * inputs.MB
_CHANGED_EVERY: Final = 33  # one file in so many differs between two images
_GZIP_LEVEL: Final = 6  # as docker build packs


class Images(NamedTuple):
    """References in a registry that runs. The bytes are those of the layers' archives, not compressed."""

    every: tuple[str, ...]
    base: str
    app: str
    base_bytes: int
    app_bytes: int
    base_what: str


@contextmanager
def images(bench: Bench) -> Iterator[Images]:
    """Run the registry, with the images in it. Raises CommandFailed if what that takes is not installed."""
    if [program for program in ("docker-registry", "skopeo", "umoci") if not bench.has(program, program)]:
        raise CommandFailed("images need docker-registry, skopeo and umoci: tools/bench --install-peers")
    with registries.registry(bench.work / "registry") as registry:
        noted = bench.work / "images.json"
        if not noted.exists():
            noted.write_text(json.dumps(_filled(bench, registry)))
        yield Images(
            tuple(f"{registry.name}/image/{number}:1" for number in range(COUNT)),
            f"{registry.name}/base:1",
            f"{registry.name}/app:1",
            **json.loads(noted.read_text()),
        )


def _filled(bench: Bench, registry: Registry) -> dict[str, int | str]:
    base, what = _base(bench)
    bench.say(f"making {COUNT} images on {what}")
    apps = [_app(bench.quick, number) for number in range(COUNT)]
    layout = Layout(bench.work / "images", gzip_level=_GZIP_LEVEL)
    layout.image([base], "base")
    layout.image([apps[0]], "app")
    for number, app in enumerate(apps):
        layout.image([base, app], f"image{number}")
        registry.push(layout.path, f"image/{number}:1", tag=f"image{number}")
    registry.push(layout.path, "base:1", tag="base")
    registry.push(layout.path, "app:1", tag="app")
    bench.remove(layout.path)
    return {"base_bytes": len(base), "app_bytes": len(apps[0]), "base_what": what}


def _base(bench: Bench) -> tuple[bytes, str]:
    """Return the archive of a root filesystem: a Debian, or where none can be made some of this machine's files."""
    path = bench.work / "base.tar"
    if not bench.quick and bench.has("mmdebstrap", "mmdebstrap"):
        bench.say("making a Debian")
        try:
            bench.command("unshare", "--mount", "mmdebstrap", "--variant=minbase", "bookworm", path)
        except (CommandFailed, subprocess.TimeoutExpired) as error:
            bench.say(f"no Debian, so the files of this machine: {error}")
        else:
            data = path.read_bytes()
            path.unlink()
            return data, "Debian 12 (mmdebstrap minbase)"
    return _packed(
        "base", _some_files("/usr", _QUICK_APP_BYTES if bench.quick else 150 * inputs.MB), 0
    ), "files of /usr"


def _app(quick: bool, number: int) -> bytes:
    return _packed("app", _some_files(sys.prefix, _QUICK_APP_BYTES if quick else _APP_BYTES), number)


def _some_files(top: str, size: int) -> list[Path]:
    chosen = []
    for path in inputs.files(Path(top)):
        found = os.lstat(path)
        if path.is_symlink() or found.st_size > inputs.MB or not os.access(path, os.R_OK):
            continue
        size -= found.st_size
        if size < 0:
            break
        chosen.append(path)
    return chosen


def _packed(where: str, files: list[Path], seed: int) -> bytes:
    """Return an archive of these files. Another seed is another few of them changed; 0 is none."""
    chosen = random.Random(seed)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in files:
            data = path.read_bytes()
            if seed and chosen.randrange(_CHANGED_EVERY) == 0:
                data = b"# %d\n" % seed + data
            member = tarfile.TarInfo(where + str(path))
            member.size, member.mode, member.mtime = len(data), path.stat().st_mode & 0o7777, MTIME
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
