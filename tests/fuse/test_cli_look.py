"""`monofs ls`, `cat`, `stat`, `du` and `diff`: trees looked into without mounting them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.cli_command import Monofs, damage, plant

LATIN = b"caf\xe9"
MTIME_NS = 1_700_000_000_123_456_789


def with_one_of_everything(directory: Path) -> Monofs:
    """Make a store with one of everything in the tree named t."""
    monofs = Monofs(directory)
    tree = plant(
        directory / "tree",
        {"a": b"1\n", ".hidden": b"", "sub/b": b"22\n", "sub/deep/c": b"333\n", "big": os.urandom(300_000)},
    )
    plant(
        tree,
        {
            os.fsdecode(LATIN): b"latin",
            "two words": b"",
            "new\nline": b"",
            "it's": b"",
            "-l": b"",
            "chunk": bytes(range(200)),
        },
    )
    (tree / "empty").mkdir()
    (tree / "link").symlink_to("sub/b")
    os.link(tree / "a", tree / "twin")
    os.mkfifo(tree / "fifo")
    (tree / "a").chmod(0o4750)
    os.utime(tree / "a", ns=(0, MTIME_NS))
    os.setxattr(tree / "a", "user.note", b"\xffbytes")
    with (tree / "sparse").open("wb") as file:
        file.write(b"begin")
        file.truncate(3 << 20)
    monofs.ok("import", "tree", "--name", "t")
    return monofs


@pytest.fixture(scope="module")
def monofs(tmp_path_factory: pytest.TempPathFactory) -> Monofs:
    """For looking only: the tests share it."""
    return with_one_of_everything(tmp_path_factory.mktemp("look"))


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


# ls


def test_ls_prints_raw_names_to_a_pipe(monofs: Monofs) -> None:
    names = monofs.ok("ls", "t").out.split(b"\n")
    assert LATIN in names and b"two words" in names and b"new" in names
    assert b".hidden" not in names
    assert b".hidden" in monofs.ok("ls", "-a", "t").out.split(b"\n")


@pytest.mark.parametrize("option", ["-A", "-R", "-AR"])
def test_ls_agrees_with_ls(monofs: Monofs, option: str) -> None:
    tree = monofs.directory / "tree"
    theirs = subprocess.run(["ls", option, "."], cwd=tree, capture_output=True, env={"LC_ALL": "C"}, check=True)
    assert monofs.ok("ls", option, "t").out == theirs.stdout


def test_ls_quotes_for_a_terminal(monofs: Monofs) -> None:
    code, shown, _ = monofs.on_terminal("ls", "t")
    assert code == 0
    names = shown.decode().splitlines()
    assert {"$'caf\\351'", "'two words'", "$'new\\nline'", '"it\'s"', "a", "-l"} <= set(names)
    for name in names:  # a shell reads it as it was
        echoed = subprocess.run(["bash", "-c", f"printf %s {name}"], capture_output=True, check=True).stdout
        assert os.path.lexists(monofs.directory / "tree" / os.fsdecode(echoed))


def test_ls_long(monofs: Monofs) -> None:
    lines = {line.split()[-1]: line for line in monofs.ok("ls", "-ln", "t").out.decode(errors="replace").splitlines()}
    ids = f"{os.getuid()} {os.getgid()}"
    assert lines["a"].split() == ["-rwsr-x---", "2", *ids.split(), "2", "2023-11-14", "22:13", "a"]
    assert lines["sub"].startswith("drwx") and lines["sub"].split()[4] == "7"
    assert lines["sub/b"].startswith("l") and lines["sub/b"].endswith("link -> sub/b")
    assert lines["fifo"].startswith("p")
    times = {match.start() for line in lines.values() if (match := re.search(r" 20\d\d-", line))}
    assert len(times) == 1, "the columns are not aligned"
    assert "3.0M" in monofs.ok("ls", "-lh", "t/sparse").text


def test_ls_json(monofs: Monofs) -> None:
    rows = by_name(monofs.ok("ls", "--json", "t").json)
    common = {"name", "path", "kind", "mode", "uid", "gid", "size", "nlink", "mtime", "mtime_ns", "cid"}
    assert all(common <= row.keys() for row in rows.values())
    a = rows["a"]
    assert (a["kind"], a["mode"], a["size"], a["nlink"]) == ("file", "4750", 2, 2)
    assert (a["mtime_ns"], a["mtime"]) == (MTIME_NS, "2023-11-14T22:13:20.123456789Z")
    assert a["cid"] is None and rows["big"]["cid"].startswith("baf")
    assert rows["link"]["target"] == "sub/b"
    assert (rows["sub"]["entries"], rows["sub"]["size"]) == (3, 7)
    assert rows["sparse"]["holes"] > 2 << 20
    assert os.fsencode(next(name for name in rows if name.startswith("caf"))) == LATIN


def test_ls_recursive_json_has_paths(monofs: Monofs) -> None:
    paths = [row["path"] for row in monofs.ok("ls", "-R", "--json", "t").json]
    assert {"sub", "sub/b", "sub/deep", "sub/deep/c"} <= set(paths)
    assert [row["path"] for row in monofs.ok("ls", "-R", "--json", "t/sub").json] == ["b", "deep", "deep/c"]


def test_ls_of_one_thing(monofs: Monofs) -> None:
    assert monofs.ok("ls", "t/sub/b").lines == ["b"]
    assert monofs.ok("ls", "-d", "t/sub").lines == ["sub"]
    assert monofs.ok("ls", "-d", "t").lines == ["."]
    assert monofs.ok("ls", "t/empty").out == b""
    assert monofs.ok("ls", "--json", "t/empty").json == []
    assert monofs.ok("ls", "-l", "t/empty").out == b""
    assert monofs.ok("ls", "t//sub/./deep/").lines == ["c"]


# What is not there


@pytest.mark.parametrize("verb", ["ls", "cat", "stat", "du"])
def test_targets_that_lead_nowhere(monofs: Monofs, verb: str) -> None:
    other = monofs.ok("stat", "--json", "t").json["cid"]
    absent = other[:-6] + ("aaaaaa" if other[-6:] != "aaaaaa" else "bbbbba")
    assert "no name 'nope'" in monofs.fails(verb, "nope")
    assert "no 'sub/nope'" in monofs.fails(verb, "t/sub/nope")
    assert "not a directory" in monofs.fails(verb, "t/a/b")
    assert "'..'" in monofs.fails(verb, "t/../x")
    assert "no block" in monofs.fails(verb, absent)
    assert "malformed" in monofs.fails(verb, "b" + "1" * 58)
    assert "CID" in monofs.fails(verb, "Qm" + "a" * 44)


def test_a_cid_of_the_wrong_kind(monofs: Monofs) -> None:
    chunk = monofs.ok("stat", "--json", "t/chunk").json["cid"]
    directory = monofs.ok("stat", "--json", "t/sub").json["cid"]
    for cid in (chunk, directory):
        line = monofs.fails("ls", cid)
        assert cid in line and "not a tree" in line


def test_a_cid_in_capitals_is_the_same(monofs: Monofs) -> None:
    cid = monofs.ok("stat", "--json", "t").json["cid"]
    assert monofs.ok("ls", cid.upper()).out == monofs.ok("ls", "t").out


# cat


def test_cat_streams_files_one_after_the_other(monofs: Monofs) -> None:
    big = (monofs.directory / "tree/big").read_bytes()
    assert monofs.ok("cat", "t/a", "t/big", "t/sub/deep/c").out == b"1\n" + big + b"333\n"
    assert monofs.ok("cat", "t/sparse").out == b"begin" + bytes((3 << 20) - 5)
    assert monofs.ok("cat", b"t/" + LATIN).out == b"latin"
    assert monofs.ok("cat", "t/.hidden").out == b""


def test_cat_says_what_it_cannot_print_and_goes_on(monofs: Monofs) -> None:
    result = monofs.run("cat", "t/sub", "t/a", "t/nope", "t/link", "t/fifo")
    assert (result.code, result.out) == (1, b"1\n")
    lines = result.err.splitlines()
    assert len(lines) == 4 and all(line.startswith("monofs: ") for line in lines)
    assert "'t/sub' is a directory" in lines[0]
    assert "nope" in lines[1]
    assert "symbolic link to 'sub/b'" in lines[2]
    assert "named pipe" in lines[3]


@pytest.mark.parametrize("name", ["chunk", "big"])
def test_cat_of_a_corrupt_file_fails_and_the_rest_is_readable(tmp_path: Path, name: str) -> None:
    monofs = with_one_of_everything(tmp_path)
    damage(monofs, monofs.ok("stat", "--json", f"t/{name}").json["cid"])
    result = monofs.run("cat", f"t/{name}", "t/a")
    assert (result.code, result.out) == (1, b"1\n")
    assert "corrupt" in result.err and "monofs check" in result.err


# stat


def test_stat_json(monofs: Monofs) -> None:
    doc = monofs.ok("stat", "--json", "t/a").json
    tree = monofs.ok("stat", "--json", "t").json["cid"]
    assert (doc["path"], doc["tree"], doc["tree_name"]) == ("a", tree, "t")
    assert doc["hard_links"] == ["a", "twin"]
    assert {name: value.encode("utf-8", "surrogateescape") for name, value in doc["xattrs"].items()} == {
        "user.note": b"\xffbytes"
    }
    assert monofs.ok("stat", "--json", tree).json["tree_name"] is None


def test_stat_of_a_tree_has_its_cid(monofs: Monofs) -> None:
    cid = monofs.ok("import", "tree").text.strip()
    assert monofs.ok("stat", "--json", "t").json["cid"] == cid
    assert monofs.ok("stat", "--json", "t/").json["cid"] == cid
    assert monofs.ok("stat", "--json", "t/sub").json["cid"] != cid


def test_stat_for_people(monofs: Monofs) -> None:
    lines = {key.strip(): value for key, _, value in (line.partition(": ") for line in monofs.ok("stat", "t/a").lines)}
    assert lines["mode"] == "4750 rwsr-x---"
    assert lines["hard_links"] == "a, twin"
    assert lines["xattrs"] == "user.note=$'\\377bytes'"
    assert "cid" not in lines
    assert monofs.ok("stat", "t/link").text.count("sub/b") == 1


# du


def test_du_sums_first_level_directories_then_all(monofs: Monofs) -> None:
    lines = monofs.ok("du", "t").lines
    total = sum(
        path.lstat().st_size
        for path in (monofs.directory / "tree").rglob("*")
        if not path.is_dir() or path.is_symlink()
    )
    assert lines == ["0\tt/empty", "7\tt/sub", f"{total}\tt"]
    assert monofs.ok("du", "-s", "t").lines == [f"{total}\tt"]
    assert monofs.ok("du", "-s", "t/sub/").lines == ["7\tt/sub"]
    assert monofs.ok("du", "t/big").lines == ["300000\tt/big"]
    assert monofs.ok("du", "-h", "t/big").lines == ["293K\tt/big"]
    assert b"300000\tt/big\n" in monofs.ok("du", "-a", "t").out


def test_du_json(monofs: Monofs) -> None:
    assert monofs.ok("du", "--json", "t/sub").json == [
        {"path": "deep", "bytes": 4, "entries": 1},
        {"path": ".", "bytes": 7, "entries": 3},
    ]


# diff


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Monofs:
    """The tree u: t with something of everything changed."""
    monofs = with_one_of_everything(tmp_path_factory.mktemp("diff"))
    tree = monofs.directory / "tree"
    plant(tree, {"fresh/x": b"", "a": b"other\n"})
    (tree / "sub/deep/c").unlink()
    (tree / "link").unlink()
    plant(tree, {"link": b"a file now"})
    (tree / "empty").chmod(0o700)
    monofs.ok("import", "tree", "--name", "u")
    return monofs


def test_diff_lists_what_differs(changed: Monofs) -> None:
    expected = ["M\ta", "M\tempty/", "A\tfresh/", "A\tfresh/x", "T\tlink", "D\tsub/deep/c", "M\ttwin"]
    assert changed.ok("diff", "t", "u", "--name-status").lines == expected
    expected[1] += "\tmode 0755 -> 0700"
    assert changed.ok("diff", "t", "u").lines == expected
    assert changed.ok("diff", "t", "t").out == b""
    reverse = changed.ok("diff", "u", "t").lines
    assert "D\tfresh/x" in reverse and "A\tsub/deep/c" in reverse


def test_diff_below_a_path(changed: Monofs) -> None:
    assert changed.ok("diff", "t", "u", "sub").lines == ["D\tdeep/c"]
    assert changed.ok("diff", "t/sub", "u/sub").lines == ["D\tdeep/c"]
    assert changed.ok("diff", "t", "u", "a").lines == ["M\t."]
    assert changed.ok("diff", "t", "u", "fresh").lines == ["A\t./", "A\tx"]
    assert "either tree" in changed.fails("diff", "t", "u", "nope")


def test_diff_tells_directories_of_another_time_if_asked(changed: Monofs) -> None:
    assert "M\tsub/deep/\ttime" in changed.ok("diff", "t", "u", "--times").lines


def test_diff_json(changed: Monofs) -> None:
    rows = {row["path"]: row for row in changed.ok("diff", "t", "u", "--json").json}
    assert (rows["link"]["status"], rows["link"]["old"]["kind"], rows["link"]["new"]["kind"]) == (
        "T",
        "symlink",
        "file",
    )
    assert rows["fresh"]["old"] is None and rows["sub/deep/c"]["new"] is None


def test_an_error_shows_strange_bytes_escaped(monofs: Monofs) -> None:
    assert "caf\\xe9" in monofs.fails("ls", b"t/sub/" + LATIN)
