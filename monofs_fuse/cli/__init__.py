"""The command line: finds the verb, loads its module and no other, and says every error in one line."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from monofs_fuse.cli import verbs
from monofs_fuse.cli.verbs import Verb
from store.errors import MonofsError

if TYPE_CHECKING:
    from monofs_fuse.cli.arguments import Args, Parser

OK, ERROR, USAGE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _stand_in_for_closed_streams()
    try:
        try:
            code = _run(sys.argv[1:] if argv is None else argv)
        except MonofsError as error:
            code = _fail(str(error))
        except SystemExit as stop:  # argparse's way out
            code = stop.code if isinstance(stop.code, int) else OK
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except OSError as error:
        _drop_stdout()
        return _fail(_explained(error))
    except KeyboardInterrupt:
        _drop_stdout()
        return INTERRUPTED


def _run(argv: list[str]) -> int:
    store: str | None = None
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        if option in ("-h", "--help") and not equals:
            print(verbs.overview())
            return OK
        if option == "--version" and not equals:
            print(f"monofs {_version()}")
            return OK
        if option != "--store" or not (equals or rest):
            return _misused("--store needs a directory" if option == "--store" else f"no option {option}")
        store = value if equals else rest.pop(0)
    if not rest:
        return _misused("a command is missing")
    name, rest = rest[0], rest[1:]
    if name in verbs.FAMILIES:
        if not rest or rest[0] in ("-h", "--help"):
            print(verbs.family(name), file=sys.stdout if rest else sys.stderr)
            return OK if rest else USAGE
        name, rest = f"{name} {rest[0]}", rest[1:]
    verb = verbs.find(name)
    if verb is None:
        return _misused(f"no command '{name}'{_nearest(name)}")
    return _call(verb, rest, store)


def _call(verb: Verb, argv: list[str], store: str | None) -> int:
    from monofs_fuse.cli.arguments import Parser

    run = verb.load()
    parser = Parser(verb.name, run.__doc__ or verb.summary)
    verb.load_options()(parser)
    args = parser.parse_args(argv)
    if args.store is None:
        args.store = store
    if args.store is None and parser.finds_projects:
        args.store = _project_store(parser, args)
    return run(args)


def _project_store(parser: Parser, args: Args) -> str | None:
    """Return the store of the project whose machine is meant by an argument like shop/web, if one is."""
    named = [getattr(args, name, None) for name, kind in parser.kinds.items() if kind in ("target", "kept")]
    texts = [text for one in named for text in (one if isinstance(one, list) else [one]) if text and "/" in text]
    if not texts:
        return None
    from monofs_fuse import config
    from monofs_fuse.project import naming

    found = naming.store_of(filter(naming.is_candidate, texts), config.store_path(None))
    return None if found is None else os.fspath(found)


def _misused(problem: str) -> int:
    print(f"monofs: {problem}; 'monofs --help' lists the commands", file=sys.stderr)
    return USAGE


def _fail(text: str) -> int:
    print(f"monofs: {text}", file=sys.stderr)
    return ERROR


def _explained(error: OSError) -> str:
    from store.directory import printable

    where = [
        printable(os.fsencode(name)) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
    ]
    return ": ".join([*where, error.strerror or str(error)])


def _stand_in_for_closed_streams() -> None:
    """With `>&-` the store's files would take the place of stdout and stderr, and be written into."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115, it stays open


def _drop_stdout() -> None:
    """Nobody reads on: what is still buffered must not raise again when Python exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, [verb.name for verb in verbs.ALL], 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _version() -> str:
    from importlib.metadata import version

    return version("monofs")
