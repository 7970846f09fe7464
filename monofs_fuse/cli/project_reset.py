"""A machine's tree as it was when it was installed: reset."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from monofs_fuse.cli import output, project_here
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import explained
from vmm.errors import NoMachine, WrongState

if TYPE_CHECKING:
    from vmm.project.folder import Folder
    from vmm.project.state import Installed


def reset_options(parser: Parser) -> None:
    parser.positional("names", "member", "machines of the project", metavar="NAME", many="+")
    parser.add_argument("--force", action="store_true", help="stop one that is up, and start it again afterwards")


def reset(args: Args) -> int:
    """Make the trees of machines what they were when they were installed; prints their CIDs.

    After 'monofs update' that is what is locked now. It takes no longer for a large tree. Nothing is lost: it is one
    more version of the tree PROJECT/NAME, and what the machine had made of it is the version before, PROJECT/NAME~1.
    'monofs prune' lets go of that.

    Examples:
      monofs reset web
      monofs reset --force web db
    """
    return explained(partial(_reset, args))


def _reset(args: Args) -> int:
    from monofs_fuse.cli import project_up
    from monofs_fuse.project import supervisor
    from vmm.project.state import State

    folder = project_here.installed_folder()
    with State(folder.mc) as state:
        made = {one.machine: one for one in state.installed()}
    for name in args.names:
        if name not in made:
            raise NoMachine(f"no machine '{name}' is installed; there are: {', '.join(sorted(made)) or 'none'}")
    project = project_here.read(folder)
    report = supervisor.report(folder)
    alive = [name for name in dict.fromkeys(args.names) if name in report and project_here.is_up(report[name])]
    if alive and not args.force:
        raise WrongState(
            f"machine '{alive[0]}' is up; 'monofs down {alive[0]}' stops it, or --force does, and starts it again"
        )
    wishes = project_here.book(folder).wishes
    again = [name for name in alive if wishes[name].up]
    if alive:
        code = project_up.stopped(folder, alive)
        if code:
            return code
    for name in dict.fromkeys(args.names):
        _reset_one(folder, project.tree_name(name), made[name])
    if not again:
        return 0
    declared = project_here.declared(folder, project)
    project_up.wish(folder, [declared.get(name, wishes[name].wanted) for name in again], again, {})
    supervisor.look(folder)
    return project_up.started(folder, again)


def _reset_one(folder: Folder, tree: str, made: Installed) -> None:
    from dataclasses import replace

    from store import cid, rollback
    from store.repository import Repository
    from vmm.project.state import State

    with closing(Repository.open(folder.store, create=False)) as repository:
        record = repository.name(tree)
        before = None if record is None else repository.head(record)
        rolled = rollback.back(repository, tree, cid.parse(made.tree), message="monofs reset")
    with State(folder.mc) as state:  # it comes from there now, whatever it was made from first
        state.put_installed(replace(made, version=str(rolled.version)))
    if rolled.tree != before:
        output.note(f"{made.machine}: what it was is {tree}~1")
    output.line(str(rolled.tree))
