"""What a script becomes with arguments, asked of a shell."""

from __future__ import annotations

import subprocess

import pytest

from vmm.project import scripts


@pytest.mark.parametrize(
    "line, more, said",
    [
        ("echo a; echo b", (), "a\nb\n"),
        ("echo a; echo b", ("c d", "*"), "a\nb c d *\n"),
        ("if true; then echo yes; fi", (), "yes\n"),
        ('echo "<$1>" "<$2>"', ("c d", ""), "<c d> <>\n"),
        ("echo ${1:-none}", (), "none\n"),
        ("echo ${1:-none}", ("one",), "one\n"),
        ("echo $#", ("a", "b"), "2\n"),
        ("echo $HOME_NOT_SET", ("x",), "x\n"),
    ],
)
def test_a_line_and_its_arguments(line: str, more: tuple[str, ...], said: str) -> None:
    argv = scripts.with_arguments(scripts.of_line(line), more)
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == said


def test_words_are_a_command_already() -> None:
    assert scripts.with_arguments(("make", "test"), ("-k",)) == ("make", "test", "-k")
    assert scripts.with_arguments(("bash", "-c", "x"), ("y",)) == ("bash", "-c", "x", "y")
