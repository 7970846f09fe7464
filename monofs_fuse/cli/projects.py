"""A project's machines, made: install, add, remove, update, and the schema of monofs.toml."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monofs_fuse import config
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import explained
from store.errors import MonofsError

if TYPE_CHECKING:
    from monofs_fuse.project.installing import Done, Wish
    from vmm.project.folder import Folder
    from vmm.project.lock import Locked

# install


def install_options(parser: Parser) -> None:
    parser.add_argument("--locked", action="store_true", help="fail if monofs.lock would have to change")
    parser.json()


def install(args: Args) -> int:
    """Make the machines of the project that you are in: .mc, from monofs.toml and monofs.lock.

    What monofs.lock has is fetched into the store if it is not there: images by their digest, directories of the
    project as git would keep them. Each machine gets a fork of its tree, called PROJECT/MACHINE, in a store of the
    project's own (.mc/store), which holds only what the machines change. What is not locked yet is looked up and
    locked. A fork that nobody has changed follows the lock; one that was changed stays, and a line says so.

    It may be interrupted, and done again; done twice it changes nothing. .mc is added to .gitignore.
    Without .mc all is as before but for what the machines had changed: 'rm -rf .mc', then install.

    JSON is a list of: machine, name, action (new, same, moved, kept, removed), tree, digest.

    Examples:
      monofs install
      monofs install --locked   # in CI: monofs.lock must be right
    """
    return explained(partial(_install, args))


def _install(args: Args) -> int:
    from monofs_fuse.project.installing import Wish

    folder = _folder(args)
    _tell(args, _done(folder, Wish(home_store(args, folder), locked=args.locked)))
    return 0


# add


def add_options(parser: Parser) -> None:
    parser.finds_projects = False
    parser.positional("name", "word", "what the machine is called", metavar="NAME")
    parser.positional("source", "target", "where its tree comes from", metavar="IMAGE|NAME|CID|DIR")
    add = parser.add_argument
    add("--from", dest="kind", choices=["image", "name", "cid", "directory"], help="what the source is, if in doubt")
    add("--memory", metavar="SIZE", help="the machine's memory (512M)")
    add("--cpus", metavar="N", type=int, help="how many processors it has (1)")
    add("--publish", metavar="PORT:PORT", action="append", help="a port here that leads to one in the machine")
    add("--volume", metavar="DIR:PATH[:ro]", action="append", help="share a directory, from the project's")
    add("--env", metavar="K=V", action="append", help="a variable")
    add("--workdir", metavar="DIR", help="the directory to run in")
    add("--user", metavar="U[:G]", help="who runs the command")
    add("--net", choices=["none", "user"], help="user: out through NAT")
    add("--depends-on", metavar="NAME", action="append", help="a machine that is started first")
    add("--restart", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped")
    parser.json()
    parser.takes_command()


def add(args: Args) -> int:
    """Add a machine to monofs.toml, lock it, and install it. Makes monofs.toml here if there is none.

    A source that begins with . / or ~ is a directory; else it is a CID, a name in the store, or an image. The file's
    remarks and blank lines stay. If the tree cannot be had, the files are as they were.

    Examples:
      monofs add db postgres:16 --publish 5432:5432 --memory 1G
      monofs add web ./rootfs --depends-on db -- httpd -f
      monofs add build base --from name
    """
    return explained(partial(_add, args))


def _add(args: Args) -> int:
    from monofs_fuse.project import sources, stores
    from monofs_fuse.project.installing import Wish
    from vmm.project import editing, reading
    from vmm.project.folder import Folder

    folder = Folder.find(Path.cwd()) or Folder(Path.cwd())
    home = home_store(args, folder)
    text = reading.load(folder.manifest) if folder.manifest.exists() else _begun(folder)
    kind = args.kind or _kind(args.source, home)
    row = {kind: _from(folder, args.source) if kind == "directory" else args.source, **_declared(args)}
    new = editing.with_machine(text, folder.manifest, args.name, row)
    project = reading.parse(new, folder.manifest)
    if not stores.is_installed(folder):  # a source that is not there makes no .mc
        machine = project.machine(args.name)
        assert machine is not None
        with _opened(home) as repository:
            sources.find(repository, machine, folder.directory, ask=False).release()
    _tell(args, _done(folder, Wish(home, text=new)))
    return 0


def _begun(folder: Folder) -> str:
    """Return a new monofs.toml. The name is in it, so that a clone is the same project wherever it lies."""
    from vmm.project import reading, toml

    return f"[project]\nname = {toml.value(reading.default_name(folder.directory))}\n"


def _kind(text: str, home: Path) -> str:
    from store import cid, place
    from store.repository import Repository

    if text.startswith((".", "/", "~")):
        return "directory"
    if cid.looks_like(text):
        return "cid"
    if place.exists(place.config_path(home)):
        with _opened(home) as repository:
            assert isinstance(repository, Repository)
            if repository.named(text) is not None:
                return "name"
    return "image"


def _from(folder: Folder, text: str) -> str:
    """Return a directory as the project's file has it: from there, if it lies below."""
    import os

    relative = os.path.relpath(os.path.expanduser(text), folder.directory)
    below = relative != ".." and not relative.startswith("../")
    return f"./{relative}" if below and not text.startswith(("~", "/")) else text if text.startswith("~") else relative


def _declared(args: Args) -> dict[str, Any]:
    """Return the keys that the options say."""
    from vmm.spec import parse_env

    keys = {"memory": args.memory, "cpus": args.cpus, "ports": args.publish, "volumes": args.volume}
    keys |= {"workdir": args.workdir, "user": args.user, "net": args.net, "depends_on": args.depends_on}
    keys |= {"env": dict(map(parse_env, args.env)) if args.env else None, "restart": args.restart}
    return {key: value for key, value in {"command": args.command, **keys}.items() if value is not None}


# remove


def remove_options(parser: Parser) -> None:
    parser.positional("name", "word", "the machine", metavar="NAME")
    parser.json()


def remove(args: Args) -> int:
    """Take a machine out of monofs.toml and monofs.lock, and remove its tree.

    A tree that was changed stays: a line says how to take its files out, or to remove it for good.

    Examples:
      monofs remove db
    """
    return explained(partial(_remove, args))


def _remove(args: Args) -> int:
    from monofs_fuse.project.installing import Wish
    from vmm.project import editing, reading

    folder = _folder(args)
    new = editing.without_machine(reading.load(folder.manifest), folder.manifest, args.name)
    _tell(args, _done(folder, Wish(home_store(args, folder), text=new)))
    return 0


# update


def update_options(parser: Parser) -> None:
    parser.positional("names", "word", "the machines (default: all)", metavar="NAME", many="*")
    parser.json()


def update(args: Args) -> int:
    """Look again where the machines' trees come from, lock what is there now, and install it.

    Registries are asked what their tags stand for, names what they point at, directories are read again. Each machine
    whose tree is another one is told, old and new.

    JSON is a list of: machine, old and new (each with tree, reference, digest, platform; old may be null).

    Examples:
      monofs update
      monofs update web
    """
    return explained(partial(_update, args))


def _update(args: Args) -> int:
    from monofs_fuse.project.installing import Wish
    from vmm.project import reading

    folder = _folder(args)
    names = args.names or [machine.name for machine in reading.read(folder.manifest).machines]
    done = _done(folder, Wish(home_store(args, folder), update=frozenset(names)))
    changed = [(done.before.get(name), one) for name, one in done.lock.items() if done.before.get(name) != one]
    if args.json:
        output.document([{"machine": new.machine, "old": doc(old), "new": doc(new)} for old, new in changed])
        return 0
    for old, new in changed:
        output.line(f"{new.machine}: {brief(old)} -> {brief(new)}")
    return 0


def doc(one: Locked | None) -> dict[str, Any] | None:
    """Return what is locked as JSON has it."""
    if one is None:
        return None
    return {"tree": one.tree or None, "reference": one.reference, "digest": one.digest, "platform": one.platform}


def brief(one: Locked | None) -> str:
    """Return what is locked as a line of text has it."""
    if one is None:
        return "nothing"
    return f"{one.reference} {(one.digest or '')[:19]}" if one.reference else one.tree


# schema


def schema_options(parser: Parser) -> None:
    pass


def schema(args: Args) -> int:
    """Print the JSON schema of monofs.toml (draft 2020-12), with which editors complete and check it.

    The file itself is read with the same rules, and some more: between machines a schema can say nothing.

    Examples:
      monofs schema > monofs.schema.json
      sed -i '1i #:schema ./monofs.schema.json' monofs.toml  # for Taplo
    """
    from vmm.project.schema import document

    output.document(document())
    return 0


# What they have in common


def _folder(args: Args) -> Folder:
    from monofs_fuse.project import stores

    return stores.find()


def home_store(args: Args, folder: Folder) -> Path:
    """Return the home store: the one that the project leans on, once it is installed."""
    from monofs_fuse.project import stores

    wanted = config.store_path(args.store)
    if not stores.is_installed(folder):
        return wanted
    home = stores.home_of(folder)
    if args.store is not None and wanted.resolve() != home:
        raise MonofsError(f"this project leans on {home}, not {wanted}; without .mc it could be installed over that")
    return home


def _opened(home: Path) -> Any:
    from contextlib import closing

    from store.repository import Repository

    return closing(Repository.open(home, create=True))


def _done(folder: Folder, wish: Wish) -> Done:
    from monofs_fuse.project.installing import install as make

    say: Callable[[str], None] = output.note
    return make(folder, wish, say)


def _tell(args: Args, done: Done) -> None:
    if args.json:
        output.document([fork._asdict() for fork in done.forks])
    else:
        output.table([[fork.action, fork.name, fork.tree] for fork in done.forks])
