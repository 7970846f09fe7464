"""A command for a machine, from the arguments that `vm run` and `vm exec` share."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monofs_fuse.cli.arguments import Args, Parser
from vmm.errors import BadSpec

if TYPE_CHECKING:
    from vmm.defaults import Wishes
    from vmm.spec import Command


def command_options(parser: Parser) -> None:
    parser.add_argument("-i", dest="interactive", action="store_true", help="pass a terminal's stdin on, too")
    parser.add_argument("-t", dest="terminal", action="store_true", help="give the command a terminal")
    parser.add_argument("--env", metavar="K=V", action="append", default=[], help="a variable; K alone: as it is here")
    parser.kinds["env_file"] = "file"
    parser.add_argument(
        "--env-file", metavar="FILE", action="append", default=[], help="variables, K=V on a line each; # for remarks"
    )
    parser.add_argument("--workdir", metavar="DIR", help="the directory to run in (the image's, else /)")
    parser.add_argument(
        "--user", metavar="U[:G]", help="who runs it, names as in the tree's /etc/passwd (the image's, else root)"
    )
    parser.takes_command()


def wishes_of(args: Args) -> Wishes:
    """Return what the arguments say of the command. Raises BadSpec."""
    from vmm import defaults, spec, terminal

    variables: dict[str, str] = {}
    for path in args.env_file:
        variables.update(map(spec.parse_env, _lines(path)))
    variables.update(map(spec.parse_env, args.env))
    if args.terminal and "TERM" not in variables and os.environ.get("TERM"):
        variables["TERM"] = os.environ["TERM"]
    rows, columns = (terminal.size() if args.terminal else None) or (24, 80)
    entrypoint = getattr(args, "entrypoint", None)
    return defaults.Wishes(
        args=None if args.command is None else tuple(args.command),
        entrypoint=None if entrypoint is None else defaults.parse_entrypoint(entrypoint),
        env=tuple(variables.items()),
        workdir=args.workdir,
        user=args.user,
        terminal=args.terminal,
        rows=min(rows, 1000),
        columns=min(columns, 1000),
    )


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(errors="surrogateescape")
    except OSError as error:
        raise BadSpec(f"cannot read {path}: {error.strerror}") from None
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def command_doc(command: Command) -> dict[str, Any]:
    """Return a command as JSON has it."""
    from dataclasses import asdict

    found: dict[str, Any] = plain(asdict(command))
    return found


def plain(value: Any) -> Any:
    """Return a value with nothing in it but what JSON has."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(inner) for inner in value]
    return os.fspath(value) if isinstance(value, Path) else value


def stdin_of(args: Args) -> int | None:
    """Return the descriptor whose bytes the command gets; None if it is to read nothing."""
    try:
        is_terminal = stat.S_ISCHR(os.fstat(0).st_mode) and os.isatty(0)
    except OSError:
        return None
    return 0 if args.interactive or not is_terminal else None
