"""monofs.toml: what is read, what is refused and how, and the JSON schema beside it."""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.fuse.cli_command import Monofs
from vmm import limits
from vmm.errors import BadProject
from vmm.project import reading, schema
from vmm.project.environment import environment
from vmm.project.lines import lines_of
from vmm.project.manifest import Dependency, Health, Machine, Project, Restart, Source
from vmm.spec import Publish, Volume

AT = Path("/somewhere/My Shop!/monofs.toml")
WHOLE = """
# a remark
[project]
name = "shop"

[machines.web]
image = "debian:12"
command = "httpd -f -p '8 0'"
entrypoint = ["/bin/sh", "-c"]
env = { A = "1", B = 2 }
env_file = ["a.env", "/etc/b.env"]
ports = ["8080:80", "0.0.0.0:8443:443"]
volumes = ["./src:/src:ro", "/data:/data"]
memory = "2G"
cpus = 2
workdir = "/srv"
user = "www:www"
depends_on = { db = "healthy", cache = "started" }
restart = "on-failure:5"
stop_grace = "1m30s"
[machines.web.scripts]
test = "make test && echo '$HOME'"
lint = ["make", "lint"]

[machines.db]
name = "base~1/sub"
net = "user"
health = { command = "pg_isready", interval = "5s", timeout = "500ms", retries = 2, start_period = "0s" }

[machines.cache]
directory = "./cache"
depends_on = ["db"]
env_file = "c.env"
entrypoint = []
[machines.old]
cid = "bafyr4icmcvufhszw27es23tvxkziqgqjdrjrk36mhb3uqotk6tfjwbcfqi"
restart = "unless-stopped"
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are said as seen from here."""
    monkeypatch.chdir(tmp_path)


def test_everything_is_read() -> None:
    project = reading.parse(WHOLE, AT)
    here = AT.parent
    assert (project.name, project.directory) == ("shop", here)
    web, db, cache, old = project.machines
    assert web == Machine(
        name="web",
        source=Source("image", "debian:12"),
        command=("httpd", "-f", "-p", "8 0"),
        entrypoint=("/bin/sh", "-c"),
        env=(("A", "1"), ("B", "2")),
        env_files=(here / "a.env", Path("/etc/b.env")),
        ports=(Publish(8080, 80), Publish(8443, 443, "0.0.0.0")),
        volumes=(Volume(here / "src", "/src", True), Volume(Path("/data"), "/data")),
        memory_bytes=2 << 30,
        cpus=2,
        workdir="/srv",
        user="www:www",
        net="user",
        depends_on=(Dependency("db", "healthy"), Dependency("cache")),
        restart=Restart("on-failure", 5),
        stop_seconds=90.0,
        scripts=(("test", ("/bin/sh", "-c", "make test && echo '$HOME'")), ("lint", ("make", "lint"))),
    )
    assert db.health == Health(("pg_isready",), 5.0, 0.5, 2, 0.0)
    assert (db.source, db.net) == (Source("name", "base~1/sub"), "user")
    assert (cache.entrypoint, cache.env_files) == ((), (here / "c.env",))
    assert (cache.source, cache.memory_bytes) == (Source("directory", "./cache"), 512 << 20)
    assert (old.source.kind, old.restart, old.net) == ("cid", Restart("unless-stopped"), "none")


def test_a_home_directory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (volume,) = reading.parse('[machines.a]\nname="a"\nvolumes=["~/x:/x"]', AT).machines[0].volumes
    assert volume == Volume(Path("/home/me/x"), "/x")


@pytest.mark.parametrize(
    "directory, name", [("shop", "shop"), ("My Shop!", "My-Shop"), ("..x", "x"), ("é", "project"), ("a" * 99, "a" * 40)]
)
def test_a_project_is_called_as_its_directory(directory: str, name: str) -> None:
    assert reading.parse("", Path("/") / directory / "monofs.toml") == Project(name, Path("/") / directory, ())


def test_the_readmes_project_is_a_good_one() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (text,) = re.findall(r"```toml\n(\[project\]\n.*?)```", readme, re.DOTALL)
    project = reading.parse(text, AT)
    assert [machine.name for machine in project.machines] == ["db", "web"]
    assert validator().is_valid(tomllib.loads(text))


# What is refused. In the second column what the schema says, too: True if it refuses it.

WRONG = [
    ("memory = '5X'", True, "machines.a.memory: '5X' is not an amount of memory, like 512M or 2G"),
    ("memory = 512", True, "machines.a.memory: 512 is not an amount of memory, like 512M or 2G"),
    ("memory = '1M'", False, "machines.a.memory: a machine's memory is 96M to 1024G, not 1M"),
    ("memory = '100001K'", False, "machines.a.memory: a machine's memory is a whole number of MiB, not 100001K"),
    ("cpus = 0", True, "machines.a.cpus: 0 is not a number from 1 to 64"),
    ("cpus = true", True, "machines.a.cpus: true is not a number from 1 to 64"),
    ("memroy = '1G'", True, "machines.a.memroy: no such key; did you mean 'memory'?"),
    ("'a b' = 1", True, "machines.a.'a b': no such key; there are image, name, cid"),
    ("image = 'debian'", True, "machines.a.name: 'image' is there already; only one of image, name, cid, directory"),
    ("command = 'a && b'", False, "machines.a.command: '&&' is for a shell"),
    ("command = \"a 'b\"", False, "machines.a.command: \"a 'b\" cannot be split into words: no closing quotation"),
    ("command = ' '", False, "machines.a.command: a command must have a word at least"),
    ("command = 1", True, "machines.a.command: 1 is not a command, or a list; each in it is text"),
    ("command = ['a', 1]", True, "machines.a.command[1]: 1 is not text"),
    ("command = \"a\\u0000\"", True, "machines.a.command: 'a\\x00' is not a command, like httpd -f"),
    ("env = ['A=1']", True, "machines.a.env: a list is not a table; each key is the name of a variable"),
    ("env = { A = true }", True, "machines.a.env.A: true is not text, or a number"),
    ("env = { '' = '1' }", True, "machines.a.env.'': '' is not the name of a variable"),
    ("env_file = 1979-01-01", None, "machines.a.env_file: 1979-01-01 is not a path, or a list; each in it is a path"),
    ("ports = ['80']", True, "machines.a.ports[0]: '80' is not HOSTPORT:PORT, like 8080:80 or 127.0.0.1:8080:80"),
    ("ports = ['80:70000']", False, "machines.a.ports[0]: 70000 is not a TCP port"),
    ("ports = ['1.2.3.400:80:80']", False, "machines.a.ports[0]: '1.2.3.400' is not an IPv4 address"),
    ("ports = ['80:80', '80:81']", False, "machines.a.ports[1]: port 80 is published twice"),
    ("ports = ['80:80']\nnet = 'none'", False, 'machines.a.net: ports need net = "user"'),
    ("net = 'bridge'", True, "machines.a.net: 'bridge' is not one of none, user"),
    ("volumes = ['./a']", True, "machines.a.volumes[0]: './a' is not HOST:GUEST or HOST:GUEST:ro, like ./src:/src"),
    ("volumes = ['./a:/proc']", False, "machines.a.volumes[0]: a volume cannot be mounted on /proc"),
    ("volumes = ['./a:/b', './c:/b/.']", False, "machines.a.volumes[1]: another volume is on /b already"),
    ("workdir = 'srv'", True, "machines.a.workdir: 'srv' is not an absolute path"),
    ("user = 'a:b:c'", True, "machines.a.user: 'a:b:c' is not USER or USER:GROUP"),
    ("restart = 'sometimes'", True, "machines.a.restart: 'sometimes' is not a policy, like no or on-failure or"),
    ("restart = 'on-failure:0'", False, "machines.a.restart: a machine is restarted 1 to 1000 times, not 0"),
    ("stop_grace = '5'", True, "machines.a.stop_grace: '5' is not a time, like 5s or 1m30s"),
    ("stop_grace = '99h'", False, "machines.a.stop_grace: '99h' is over 24 hours"),
    ("health = { interval = '5s' }", True, "machines.a.health: 'command' is missing"),
    ("health = { command = [] }", True, "machines.a.health.command: there must be 1 to 1000, not 0"),
    ("health = { command = 'x', interval = '0s' }", False, "machines.a.health.interval: '0s' is no time at all"),
    ("health = { command = 'x', retries = 0 }", True, "machines.a.health.retries: 0 is not a number from 1 to 1000"),
    ("depends_on = ['b']", False, "machines.a.depends_on: there is no machine 'b'"),
    ("depends_on = ['a']", False, "machines.a.depends_on: the machines wait for each other: a -> a"),
    ("depends_on = { z = 'ready' }", True, "machines.a.depends_on.z: 'ready' is not one of started, healthy"),
    ("depends_on = { z = 'healthy' }", False, "machines.a.depends_on: 'z' has no health to wait for"),
    ("scripts = { t = [] }", True, "machines.a.scripts.t: there must be 1 to 1000, not 0"),
    ("scripts = { t = ' ' }", False, "machines.a.scripts.t: a script must have a word at least"),
    ("scripts = { '-t' = 'x' }", True, "machines.a.scripts.-t: '-t' is not a script's name"),
]  # fmt: skip


@pytest.mark.parametrize("lines, by_schema, said", WRONG, ids=[row[0] for row in WRONG])
def test_what_is_wrong_is_said_with_file_line_and_key(lines: str, by_schema: bool | None, said: str) -> None:
    text = f'[machines.z]\nname = "z"\n[machines.a]\nname = "x"\n{lines}\n'
    with pytest.raises(BadProject) as caught:
        reading.parse(text, AT)
    (line,) = str(caught.value).splitlines()
    at, _, rest = line.partition(": ")
    number = 4 if "only one of" in said else 3 if "is missing:" in said and "one of" in said else 5 + lines.count("\n")
    assert at == f"{AT}:{number}"
    assert rest.startswith(said)
    if by_schema is not None:
        assert validator().is_valid(tomllib.loads(text)) is not by_schema


@pytest.mark.parametrize(
    "text, said",
    [
        ("machines = 1", "1: machines: 1 is not a table; each key is a machine's name"),
        ("[machines.a]", "1: machines.a: one of image, name, cid, directory must be there"),
        ("[machines]\n[machines.'-a']\nname='b'", "2: machines.-a: '-a' is not a machine's name"),
        ("\n[project]\nname = 'a/b'", "3: project.name: 'a/b' is not a project's name"),
        (f"[project]\nname = '{'a' * 41}'", "2: project.name: over 40 characters"),
        ("[proj]", "1: proj: no such key; did you mean 'project'?"),
        ("\n\na = [", "3: Invalid value"),
        ("a = 1\na = 2", "2: Cannot overwrite a value"),
        ("a = '''\n\n", "3: Expected \"'''\""),
    ],
)
def test_what_is_wrong_beside_machines(text: str, said: str) -> None:
    with pytest.raises(BadProject) as caught:
        reading.parse(text, AT)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{AT}:{said}")


def test_all_that_is_wrong_is_told_at_once_in_the_files_order() -> None:
    text = """
[machines.b]
ports = [
    "80:80",
    "x",
]
cpus = 99
[machines.a]
name = "x"
image = "y"
depends_on = ["b", "nobody"]
"""
    with pytest.raises(BadProject) as caught:
        reading.parse(text, AT)
    assert [line.removeprefix(f"{AT}:").split(": ")[:2] for line in str(caught.value).splitlines()] == [
        ["2", "machines.b"],
        ["3", "machines.b.ports[1]"],
        ["7", "machines.b.cpus"],
        ["9", "machines.a.name"],
        ["11", "machines.a.depends_on"],
    ]


def test_two_machines_cannot_publish_one_port() -> None:
    def ports(one: str, other: str) -> str:
        return f"[machines.a]\nname='x'\nports=['{one}']\n[machines.b]\nname='x'\nports=['{other}']"

    reading.parse(ports("80:80", "127.0.0.2:80:80"), AT)
    for one, other in (("80:80", "80:81"), ("0.0.0.0:80:80", "127.0.0.2:80:80")):
        with pytest.raises(BadProject, match=r"monofs.toml:6: machines.b.ports\[0\]: port 80 is published by 'a', too"):
            reading.parse(ports(one, other), AT)


def test_a_long_circle_is_said_once_and_a_diamond_is_none() -> None:
    def machines(edges: dict[str, str]) -> str:
        return "".join(f"[machines.{k}]\nname='x'\ndepends_on={list(v)}\n" for k, v in edges.items())

    reading.parse(machines({"a": "bc", "b": "d", "c": "d", "d": ""}), AT)
    with pytest.raises(BadProject) as caught:
        reading.parse(machines({"a": "b", "b": "c", "c": "d", "d": "b"}), AT)
    assert str(caught.value) == f"{AT}:6: machines.b.depends_on: the machines wait for each other: b -> c -> d -> b"


def test_bounds() -> None:
    def many(count: int) -> str:
        return "".join(f"[machines.m{number}]\nname='x'\n" for number in range(count))

    assert len(reading.parse(many(limits.machines_max), AT).machines) == limits.machines_max
    with pytest.raises(BadProject, match="machines: there must be 0 to 100, not 101"):
        reading.parse(many(limits.machines_max + 1), AT)
    with pytest.raises(BadProject, match=r"and 50 more$"):
        reading.parse("".join(f"[machines.m{number}]\n" for number in range(100)), AT)
    with pytest.raises(BadProject, match="too deep"):
        reading.parse("a = " + "[" * 100_000, AT)
    long = "[machines.a]\nname='x'\ncommand=['" + "a" * (limits.text_bytes_max + 1) + "']"
    with pytest.raises(BadProject, match=r"command\[0\]: over 32768 characters"):
        reading.parse(long, AT)


def test_files_that_are_no_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "monofs.toml"
    with pytest.raises(BadProject, match=r"^cannot read monofs\.toml: No such file or directory$"):
        reading.read(file)
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(BadProject, match=r"^monofs\.toml:2: not UTF-8$"):
        reading.read(file)
    file.write_bytes(b"#" * (limits.manifest_bytes_max + 1))
    with pytest.raises(BadProject, match=r"^monofs\.toml: over 1 MiB$"):
        reading.read(file)
    file.write_bytes(b"[machines.a]\r\nname = 'x'\r\ncpus = 0\r\n")
    with pytest.raises(BadProject, match=r"^monofs\.toml:3: machines.a.cpus"):
        reading.read(file)


def test_nothing_else_is_read(tmp_path: Path) -> None:
    (tmp_path / "monofs.toml").write_text(WHOLE)
    assert reading.read(tmp_path / "monofs.toml").machine("web") is not None  # none of its files is there


# The lines of keys


def test_lines_of_keys_wherever_they_stand() -> None:
    text = '''# [not.this]
a = """
b = 1
[c]
""""" # five quotes
"d e".'f' = { g = "}", h = 2 }
i = [ # ]
  "]", [ '[' ],
]
[ j . "k\\u0041" ]
l=1
[[m]]
n = \'\'\'
\'\'\'\'
o = 1
'''
    assert lines_of(text) == {
        ("a",): 2, ("d e",): 6, ("d e", "f"): 6, ("i",): 7, ("j",): 10, ("j", "kA"): 10, ("j", "kA", "l"): 11,
        ("m",): 12, ("m", "n"): 13, ("m", "o"): 15,
    }  # fmt: skip


def test_lines_of_random_files(rng: random.Random) -> None:
    values = ['"a"', "1", "'''\n[x]\ny = 1\n'''", '"""\n"a" = \\"""#\n"""', "[\n1, # ]\n2,\n]", "{ a = [1], b = '}' }"]
    for _ in range(200):
        lines, expected = 1, {}
        text = ""
        for number in range(rng.randrange(6)):
            row = rng.choice(["", "# [a]\n", f"[t{number}]\n"])
            table = row[1:-2] if row.startswith("[") else ""
            if table:
                expected[(table,)] = lines
            text, lines = text + row, lines + row.count("\n")
            current = table or next((key[0] for key in reversed(list(expected)) if key[0].startswith("t")), "")
            key = (current, f"k{number}") if current else (f"k{number}",)
            expected[key] = lines
            row = f"k{number} = {rng.choice(values)}{rng.choice(['', ' # =', '  '])}\n"
            text, lines = text + row, lines + row.count("\n")
        tomllib.loads(text)
        assert lines_of(text) == expected, text


# Files of variables


def test_variables_of_files_and_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("# remark\nA=1\n\n B = x=y \nC='quoted'\n")
    (tmp_path / "b.env").write_text("A=2\nD=\n")
    text = '[machines.m]\nname="x"\nenv_file=["a.env", "b.env"]\nenv={C="table"}'
    (machine,) = reading.parse(text, tmp_path / "monofs.toml").machines
    assert dict(environment(machine)) == {"A": "2", "B": " x=y ", "C": "table", "D": ""}
    (tmp_path / "b.env").write_text("A=2\nexport\n")
    with pytest.raises(BadProject, match=r"b\.env:2: not NAME=VALUE$"):
        environment(machine)
    (tmp_path / "b.env").unlink()
    with pytest.raises(BadProject, match=r"^cannot read .*b\.env: No such file"):
        environment(machine)


# The schema


def said_of(doc: Any) -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = []
    schema.PROJECT.read(doc, (), lambda path, what: found.append((path, what)))
    return found


def validator() -> Any:
    return jsonschema.Draft202012Validator(schema.document())


def test_the_schema_is_one_and_takes_what_is_read(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema.document())
    assert list(validator().iter_errors(tomllib.loads(WHOLE))) == []


def test_every_key_is_described() -> None:
    def undescribed(node: Any) -> list[str]:
        if not isinstance(node, dict):
            return []
        properties = node.get("properties", {})
        found = [key for key, inner in properties.items() if not inner.get("description")]
        return found + [key for inner in [*node.values(), *properties.values()] for key in undescribed(inner)]

    assert undescribed(schema.document()) == []
    assert len(schema.document()["properties"]["machines"]["additionalProperties"]["properties"]) == 20


def test_what_is_good_by_itself_is_good_in_both(rng: random.Random) -> None:
    """Random values for random keys: the reader refuses whatever the schema refuses."""
    keys = [field.name for field in schema.MACHINE.fields]
    values = ["a", "5s", "1G", "80:80", "./a:/b", "no", "/x", "", 1, 0, True, 1.5, [], ["a"], [1], {}, {"a": "b"}]
    seen, checks = {True: 0, False: 0}, validator()
    for _ in range(3000):
        row = {"name": "x", **{rng.choice(keys): rng.choice(values) for _ in range(rng.randrange(1, 3))}}
        good = checks.is_valid({"machines": {"a": row}})
        problems = said_of({"machines": {"a": row}})
        seen[good] += 1
        assert good or problems, row
        assert not good or all("shell" in what or "memory" in what or "word" in what for _, what in problems), (
            row,
            problems,
        )
    assert min(seen.values()) > 100


def test_the_schema_is_printed(tmp_path: Path) -> None:
    assert Monofs(tmp_path).ok("schema").json == schema.document()
