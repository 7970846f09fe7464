"""The machines of a project up and down: up, down, restart."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from monofs_fuse import mountpoint
from monofs_fuse.cli import output, project_here
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.project_here import Report
from monofs_fuse.cli.vm import explained
from vmm.errors import WrongState

if TYPE_CHECKING:
    from vmm.project.folder import Folder
    from vmm.project.plan import Plan
    from vmm.project.wanted import Wanted


def _names(parser: Parser, help: str) -> None:
    parser.positional("names", "member", help, metavar="NAME", many="*")


# up


def up_options(parser: Parser) -> None:
    _names(parser, "only these machines, and what they need")
    add = parser.add_argument
    add("-d", "--detach", action="store_true", help="return once all have started; they go on")
    add("--wait", action="store_true", help="with -d: return once those with a health check are healthy")
    add("--dry-run", action="store_true", help="print the plan, do nothing")
    add("--locked", action="store_true", help="do not go beyond monofs.lock")
    parser.json()


def up(args: Args) -> int:
    """Let the project's machines run as monofs.toml declares them.

    What has to be done is printed, then done: start what is missing, restart what is declared otherwise than it runs,
    stop what is not declared any more. What a machine depends on is started before it. Machines that are not
    installed yet are installed first.

    Then what the machines print is shown, until all have ended or Ctrl-C, which stops them; once more, and
    they are killed. With -d they go on by themselves: 'monofs ps', 'monofs logs' and 'monofs down' are for those. A
    machine that ends is started again as its restart policy says. JSON is the plan: {"steps": [{"machine", "action",
    "why"}]}.

    Examples:
      monofs up
      monofs up -d --wait web
      monofs up --dry-run

    Exit codes: 0 done; 1 a machine could not be started, or ended with a failure, or another error, which stderr tells.
    """
    if args.wait and not args.detach:
        args.refuse("--wait is for -d")
    return explained(partial(_up, args))


def _up(args: Args) -> int:
    from monofs_fuse.project import supervisor
    from vmm.project import plan

    folder = project_here.folder()
    project = project_here.read(folder)
    if not args.dry_run:
        install(args, folder)
    wanted = project_here.declared(folder, project)
    now = project_here.running(folder, supervisor.report(folder))
    found = plan.up(wanted.values(), now, args.names)
    _print(found, args)
    if args.dry_run:
        return 0
    _check(folder, wanted, found)
    moving = [step.machine for step in found.changes if step.action == "restart" and "image changed" in step.why]
    if moving:  # a tree that nobody has changed follows the lock, but not while it is in use
        stopped(folder, moving)
        install(args, folder)
        wanted = project_here.declared(folder, project)
    names = [step.machine for step in found.steps if step.action != "stop"]
    stops = [step.machine for step in found.steps if step.action == "stop"]
    anew = [step.machine for step in found.steps if step.action in ("start", "restart")]
    wish(folder, [wanted[name] for name in names], anew, dict.fromkeys(stops))
    supervisor.look(folder)
    code = started(folder, names, wait=args.wait) if args.detach else _follow(folder, names, anew)
    if stops:
        _until(folder, stops, _is_down)
    _forget(folder, wanted)
    return code


def install(args: Args, folder: Folder) -> None:
    """Install what is not installed yet. Raises BadProject, MonofsError."""
    from monofs_fuse.cli import projects
    from monofs_fuse.project.installing import Wish
    from monofs_fuse.project.installing import install as make

    make(folder, Wish(projects.home_store(args, folder), locked=getattr(args, "locked", False)), output.note)


def _print(found: Plan, args: Args) -> None:
    if args.json:
        steps = [{"machine": step.machine, "action": step.action, "why": step.why} for step in found.steps]
        output.document({"steps": steps})
        return
    for step in found.changes:
        output.line(str(step))
    if not found.changes:
        output.line("nothing to do")
    sys.stdout.flush()


def _check(folder: Folder, wanted: Mapping[str, Wanted], found: Plan) -> None:
    """Raise what would keep the machines from starting, before anything is done."""
    from monofs_fuse.cli.vm import machines
    from vmm import programs
    from vmm.project import ports

    starts = [wanted[step.machine] for step in found.changes if step.action == "start"]
    if not any(step.action != "stop" for step in found.changes):
        return
    programs.check_root()
    mountpoint.check_fuse(False)
    programs.find_qemu()
    programs.find_virtiofsd()
    programs.check_helpers()
    runs = project_here.book(folder).runs
    ours = {run.vm for run in runs.values()}
    with machines(folder.store) as (_, listed):
        living = listed.living()
    leaving = {step.machine for step in found.changes}
    held = {port["host_port"] for row in living if row.name in leaving for port in row.spec["publish"]}
    for one in starts:
        for row in living:
            if row.name == one.machine and row.id not in ours:
                raise WrongState(f"machine '{one.machine}' is busy with a 'monofs run'; wait until it has ended")
        try:  # those of machines that are about to go are as good as free
            ports.check(port for port in one.publish if port.host_port not in held)
        except WrongState as error:
            raise WrongState(f"machine '{one.machine}': {error}") from None


def wish(folder: Folder, up: Iterable[Wanted], anew: Sequence[str], down: Mapping[str, float | None]) -> None:
    """Write down what is to run, what of it is to be started once more, and what is not to run."""
    from vmm.project.state import State
    from vmm.project.wishes import Wishes

    with State(folder.mc) as state:
        book = Wishes(state)
        book.wish_down(down)
        book.wish_up(up, anew)


def _forget(folder: Folder, wanted: Mapping[str, Wanted]) -> None:
    """Let go of what is known of machines that are down and not declared any more."""
    from vmm.project.state import State
    from vmm.project.wishes import Wishes

    with State(folder.mc) as state:
        book = Wishes(state)
        runs = book.runs()
        for name, wish in book.all().items():
            if name not in wanted and not wish.up and (name not in runs or runs[name].phase == "down"):
                book.forget(name)


def _follow(folder: Folder, names: list[str], anew: list[str]) -> int:
    """Show what the machines print until all have ended; Ctrl-C is down, once more is kill."""
    from monofs_fuse.project.following import Follower

    follower = Follower(folder, names, {name: None if name in anew else 0 for name in names})
    asked = 0
    with follower:
        for event in follower.events():
            if event == "interrupt":
                asked += 1
                output.note("stopping; Ctrl-C once more kills" if asked == 1 else "killing")
                wish(folder, [], [], dict.fromkeys(names, None if asked == 1 else 0.0))
                follower.look()
            elif not any(map(project_here.is_up, follower.mine())):
                break
        follower.drain()
    bad = [name for name, one in follower.last.items() if name in names and _failed(one)]
    if asked == 0:
        for name in bad:
            output.note(f"{name}: {project_here.how_it_ended(follower.last[name])}")
    return 1 if bad and asked == 0 else 0


def _failed(one: dict[str, Any]) -> bool:
    """False too for one that was stopped by another command."""
    return bool(one["wished"] == "up" and (one["error"] or one["exit_code"] or one["blocked_by"]))


# Waiting


def started(folder: Folder, names: Sequence[str], *, wait: bool = False) -> int:
    """Wait until these have started, and are healthy if `wait`; returns 1 if one has not, told with its last words."""
    return _until(folder, names, partial(_started, wait=wait))


def stopped(folder: Folder, names: Sequence[str], seconds: float | None = None) -> int:
    """Stop these and wait for it; returns 1 if somebody else started one again."""
    from monofs_fuse.project import supervisor

    wish(folder, [], [], dict.fromkeys(names, seconds))
    supervisor.look(folder)
    return _until(folder, names, _is_down)


def _until(folder: Folder, names: Sequence[str], judge: Any) -> int:
    """Wait until `judge` has a word for every machine: "" is good, another is told, with the log's end."""
    from monofs_fuse.project import following

    left = dict.fromkeys(names)
    failed: dict[str, str] = {}
    for report in following.reports(folder):
        for name in list(left):
            if name not in report:
                del left[name]
                continue
            word = judge(report[name], report)
            if word is None:
                continue
            del left[name]
            if word:
                failed[name] = word
        if not left:
            break
    failed |= dict.fromkeys(left, "it did not come to that; 'monofs ps' says how it is")
    for name, word in failed.items():
        for line in following.last_lines(folder, name):
            output.note(f"{name} | {line}")
        output.note(f"{name}: {word}")
    return 1 if failed else 0


def _started(one: dict[str, Any], report: Report, *, wait: bool) -> str | None:
    """Return "" for a machine that has started, why it will not, or None while nobody knows."""
    if one["wished"] == "down":
        return "it was stopped by another command"
    if not one["is_current"]:
        return _waits_in_vain(one, report)
    if one["phase"] == "running":
        if wait and one["health"] == "unhealthy":
            return "it runs, and is not healthy"
        return "" if not wait or one["health"] in (None, "healthy") else None
    if one["phase"] != "down":
        return None
    if one["error"] or one["exit_code"]:
        again = "; it will be started again" if one["next_start"] is not None else ""
        return project_here.how_it_ended(one) + again
    return ""


def _waits_in_vain(one: dict[str, Any], report: Report) -> str | None:
    if one["blocked_by"]:
        return f"it waits for {one['blocked_by']}, which does not run"
    for need in one["waits_for"]:
        if report.get(need, {}).get("health") == "unhealthy":
            return f"it waits for {need}, which is not healthy"
    return None


def _is_down(one: dict[str, Any], report: Report) -> str | None:
    return (
        "it was started again by another command" if one["wished"] == "up" else "" if one["phase"] == "down" else None
    )


# down


def down_options(parser: Parser) -> None:
    _names(parser, "only these machines")
    parser.add_argument(
        "--timeout", metavar="S", type=float, help="how long a machine may take to end before it is killed"
    )
    parser.json()


def down(args: Args) -> int:
    """Stop the project's machines and save their trees. Those that depend on others go first.

    A machine's command gets TERM, or the signal that its image says; KILL if it does not end in time, which is
    stop_seconds in monofs.toml. With --timeout 0 it is as if the power was cut. What a machine wrote is in its tree,
    PROJECT/NAME, and there when it is up again. JSON is the plan: {"steps": [...]}.

    Examples:
      monofs down
      monofs down web --timeout 60
    """
    if args.timeout is not None and not args.timeout >= 0:
        args.refuse("a time is a number of seconds, 0 or more")
    return explained(partial(_down, args))


def _down(args: Args) -> int:
    from monofs_fuse.project import supervisor
    from vmm.project import plan
    from vmm.project.plan import Running

    folder = project_here.installed_folder()
    report = supervisor.report(folder)
    wishes = project_here.book(folder).wishes
    for name in args.names:
        if name not in wishes:
            _check_declared(folder, name)
    there = {
        name: Running(wish.wanted, alive=project_here.is_up(report[name]) or wish.up)
        for name, wish in wishes.items()
        if name in report
    }
    names = [name for name in args.names if name in there]
    found = plan.down(there, names) if names or not args.names else plan.Plan(())
    _print(found, args)
    stops = [step.machine for step in found.steps]
    if not stops:
        return 0
    code = stopped(folder, stops, args.timeout)
    _tell_unsaved(folder, stops)
    return code


def _check_declared(folder: Folder, name: str) -> None:
    from vmm.project import plan

    declared = [one.name for one in project_here.read(folder).machines]
    if name not in declared:
        raise plan.unknown(name, declared)


def _tell_unsaved(folder: Folder, names: Iterable[str]) -> None:
    """Say what went wrong when machines were stopped: a tree that could not be saved, say."""
    runs = project_here.book(folder).runs
    for name in names:
        run = runs.get(name)
        if run is not None and run.ended is not None and run.ended.error:
            output.note(f"{name}: {run.ended.error}")


# restart


def restart_options(parser: Parser) -> None:
    _names(parser, "only these machines")


def restart(args: Args) -> int:
    """Stop machines and start them once more as they are; what monofs.toml says now is for 'monofs up'.

    Examples:
      monofs restart web
    """
    return explained(partial(_restart, args))


def _restart(args: Args) -> int:
    from monofs_fuse.project import supervisor

    folder = project_here.installed_folder()
    supervisor.report(folder)
    wishes = project_here.book(folder).wishes
    for name in args.names:
        project_here.known(name, wishes)
    chosen = args.names or [name for name, wish in wishes.items() if wish.up]
    if not chosen:
        raise WrongState("no machine of this project is up; 'monofs up' starts them")
    wish(folder, [wishes[name].wanted for name in chosen], chosen, {})
    supervisor.look(folder)
    return started(folder, chosen)
