"""What the verbs' arguments have in common: how they are declared, explained, refused and looked up."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from monofs_fuse import config
from monofs_fuse.cli.shells import Kind

if TYPE_CHECKING:  # 50 ms that --help and completion need not wait for
    from store.entry import Entry
    from store.repository import Repository, Target
    from store.version import Tree

Args = argparse.Namespace


EXIT_CODES: Final = "Exit codes: 0 done; 1 an error, explained in one line on stderr; 2 wrong usage."
TARGET_HELP: Final = "a CID or a name, an earlier version of it (src~1, src@{yesterday}), a path inside"


class _Explained(argparse.HelpFormatter):
    """Wraps paragraphs to the terminal; examples stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            part if part.startswith("Examples:") else super(_Explained, self)._fill_text(part, width, indent)
            for part in paragraphs
        )


def _columns() -> int:
    """The width of the terminal. argparse makes a formatter for every argument, and would import shutil for this."""
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class Parser(argparse.ArgumentParser):
    """Every verb knows --store and --help; `explanation` is its function's docstring."""

    def __init__(self, verb: str, explanation: str) -> None:
        text, _, rest = _dedented(explanation).partition("\nExamples:")
        super().__init__(
            prog=f"monofs {verb}",
            description=text,
            epilog="Examples:" + rest + ("" if "Exit codes" in rest else "\n\n" + EXIT_CODES),
            formatter_class=_Explained,
            allow_abbrev=False,
            conflict_handler="resolve",  # -h is for sizes where people know it so; --help always helps
        )
        self.kinds: dict[str, Kind] = {}  # argument -> what shells complete it with
        self.fails_with = 2  # the exit code for wrong usage
        self.finds_projects = True  # a target like shop/web means that project's store
        self._takes_command = False
        self.add_argument("--store", metavar="DIR", help="the store's directory")
        self.kinds["store"] = "directory"
        self.set_defaults(refuse=self.error)  # for a verb that finds options which do not go together

    def positional(self, name: str, kind: Kind, help: str, *, metavar: str, many: str | None = None) -> None:
        """Declare an argument; `many` is argparse's nargs."""
        self.kinds[name] = kind
        self.add_argument(name, metavar=metavar, help=help, nargs=many)

    def target(self) -> None:
        self.positional("target", "target", TARGET_HELP, metavar="CID|NAME[/path]")

    def json(self) -> None:
        self.add_argument("--json", action="store_true", help="print JSON, for programs")

    def takes_command(self) -> None:
        """What follows `--` is a command: a list in `command`, None if there is no `--`."""
        self._takes_command = True

    def format_usage(self) -> str:
        return self._with_command(super().format_usage())

    def format_help(self) -> str:
        usage = super().format_usage()
        return super().format_help().replace(usage, self._with_command(usage), 1)

    def _with_command(self, usage: str) -> str:
        return usage.rstrip("\n") + "\n" + " " * 8 + "[-- COMMAND ARG ...]\n" if self._takes_command else usage

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        words = list(args)
        command = None
        if self._takes_command and "--" in words:
            at = words.index("--")
            words, command = words[:at], words[at + 1 :]
        found, unknown = super().parse_known_args(self._options_first(words), namespace)
        if self._takes_command:
            if unknown and not unknown[0].startswith("-"):
                self.error(f"a command is written after --: '-- {' '.join(unknown)}'")
            found.command = command or None
        return found, unknown

    def _options_first(self, words: list[str]) -> list[str]:
        """Return the words with options, and what they take, before all others.

        By itself argparse gives an argument that need not be there nothing, if an option comes before it.
        """
        options: list[str] = []
        others: list[str] = []
        left = deque(words)
        while left:
            word = left.popleft()
            if word == "--":
                others += left
                break
            if not self._is_option(word):
                others.append(word)
                continue
            options.append(word)
            takes = self._takes(word)
            while takes and left and not self._is_option(left[0]):
                options.append(left.popleft())
                takes = takes if takes == "+" else None
        return [*options, "--", *others] if others else options

    def _is_option(self, word: str) -> bool:
        """As argparse sees it: a number, or something with a space in it, is none."""
        stems = (word, word.partition("=")[0], "" if word.startswith("--") else word[:2])
        if any(stem in self._option_string_actions for stem in stems):
            return True
        return word[:1] == "-" and len(word) > 1 and " " not in word and not re.fullmatch(r"-\d+|-\d*\.\d+", word)

    def _takes(self, word: str) -> str | None:
        """Return "1" if the next word belongs to this option, "+" for all up to the next option; None for none."""
        if word.startswith("--"):
            action = self._option_string_actions.get(word)
        else:  # several of one letter, of which the last may have its value right behind it
            found = [self._option_string_actions.get("-" + letter) for letter in word[1:]]
            valued = next((n for n, one in enumerate(found) if one is None or one.nargs != 0), None)
            action = found[-1] if valued == len(found) - 1 else None
        if action is None or action.nargs == 0:
            return None
        return "+" if action.nargs in ("+", "*") else "1"

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; '{self.prog} --help' explains", file=sys.stderr)
        raise SystemExit(self.fails_with)


@contextmanager
def opened(args: Args, *, create: bool = False) -> Iterator[Repository]:
    """The store that `args` mean. Only verbs that put something into it may create it."""
    from store.repository import Repository

    repository = Repository.open(config.store_path(args.store), create=create)
    try:
        yield repository
    finally:
        repository.close()


@contextmanager
def reading(args: Args) -> Iterator[Repository]:
    """The store as it is now, whatever others change or delete meanwhile. Nothing can be written to it."""
    with opened(args) as repository, repository.store.steady():
        yield repository


class Place(NamedTuple):
    """What CID|NAME[/path] led to."""

    target: Target
    tree: Tree
    entry: Entry


def find(repository: Repository, text: str) -> Place:
    """Follow CID|NAME[/path]. Raises NotFound, BadCid, WrongKind."""
    return _place(repository, repository.resolve(text))


@contextmanager
def held(repository: Repository, text: str) -> Iterator[Place]:
    """The same, kept for a long read: unlike with `reading`, the store is no larger for it than the tree is."""
    with repository.holding(text) as (target,):
        yield _place(repository, target)


def _place(repository: Repository, target: Target) -> Place:
    from store import directory, version

    tree = version.load_tree(repository.cache, target.tree)
    return Place(target, tree, directory.resolve(repository.cache, tree.root, target.path))


def _dedented(text: str) -> str:
    first, _, rest = text.partition("\n")
    lines = [line[4:] if line.startswith("    ") else line for line in rest.splitlines()]
    return "\n".join([first, *lines]).strip()
