"""`monofs vm` with real machines that boot a real Debian: every boot is dear, so most tests share one machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from socket import socket

import pytest

from store.repository import Repository
from tests.fuse.cli_command import ROOT, plant
from tests.mounted.conftest import public_directory
from tests.vm.hosts import REAL, Host, kill, result_of, terminal, until, wait_for_line

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="machines need root"),
]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's essential packages and Python. MONOFS_TEST_DEBIAN names one that was made before."""
    if "MONOFS_TEST_DEBIAN" in os.environ:
        return Path(os.environ["MONOFS_TEST_DEBIAN"])
    root = tmp_path_factory.mktemp("debian") / "root"
    quick = ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    # It mounts this machine's /dev there, and now and then cannot unmount it.
    words = [
        "unshare",
        "--mount",
        "mmdebstrap",
        "--variant=essential",
        "--include=python3",
        *quick,
        *without,
        "bookworm",
        root,
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return root


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, debian: Path) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("host"), REAL)
    made.ok("import", str(debian), "--name", "debian")
    yield made
    made.end()
    for log in made.store.glob("vm/*/supervisor.log"):
        print(log.read_text())


@pytest.fixture(scope="module")
def port() -> int:
    with closing(socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def box(host: Host, port: int) -> Iterator[str]:
    """A machine that runs and waits: network, a volume to write to, and one to read this project's tests from."""
    plant(host.directory, {"share/in": b"from the host\n"})
    words = ["--memory", "512M", "--net", "user", "--publish", f"{port}:80", "--name", "box"]
    volumes = ["--volume", "share:/mnt/share", "--volume", f"{ROOT}/tests:/mnt/suite/tests:ro"]
    host.detached(*words, *volumes, "debian")
    yield "box"
    host.ok("vm", "stop", "box")
    assert host.names().keys() >= {"debian"}


def inside(host: Host, script: str, *options: str, input: bytes | None = None) -> bytes:
    done = host.run("vm", "exec", *options, "box", "--", "sh", "-c", script, input=input)
    assert done.code == 0, done
    return done.out


# One machine, many commands


def test_it_is_debian(host: Host, box: str) -> None:
    assert b"bookworm" in inside(host, "cat /etc/os-release")
    assert inside(host, "stat -f -c %T /; id -u; hostname").split() == [b"fuseblk", b"0", b"box"] or inside(
        host, "grep ' / ' /proc/mounts"
    ).startswith(b"monofs")


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)])
def test_exit_codes(host: Host, box: str, script: str, code: int) -> None:
    assert host.run("vm", "exec", box, "--", "sh", "-c", script).code == code


def test_programs_that_cannot_be_run(host: Host, box: str) -> None:
    assert host.run("vm", "exec", box, "--", "/no/such").code == 127
    assert host.run("vm", "exec", box, "--", "no-such-word").code == 127
    assert host.run("vm", "exec", box, "--", "/etc/passwd").code == 126


def test_streams(host: Host, box: str) -> None:
    done = host.run("vm", "exec", box, "--", "sh", "-c", "sort; echo oops >&2", input=b"c\nb\na\n")
    assert (done.code, done.out, done.err) == (0, b"a\nb\nc\n", "oops\n")


def test_64_mib_of_output(host: Host, box: str) -> None:
    """In order, whole, and the exit code after it."""
    script = "seq 1000000 1999999 > /m; cat /m /m /m /m /m /m /m /m /m | head -c 67108864; rm /m; exit 5"
    done = host.run("vm", "exec", box, "--", "sh", "-c", script)
    expected = b"".join(b"%d\n" % number for number in range(1_000_000, 2_000_000)) * 9
    assert done.code == 5
    assert done.out == expected[: 64 * 1024 * 1024]


def test_environment_directory_and_user(host: Host, box: str) -> None:
    said = inside(host, "echo $A; pwd; id -un; id -gn", "--env", "A=b c", "--workdir", "/usr", "--user", "daemon")
    assert said.splitlines() == [b"b c", b"/usr", b"daemon", b"daemon"]
    assert inside(host, "id -u; id -g", "--user", "12:34").split() == [b"12", b"34"]
    done = host.run("vm", "exec", "--user", "nobody-here", box, "--", "true")
    assert done.code in (125, 126) and "nobody-here" in done.err


def test_a_terminal(host: Host, box: str) -> None:
    with terminal(host, "vm", "exec", "-i", "-t", box, "--", "sh") as screen:
        screen.type(b"stty size; tty; echo he''re\n")
        said = screen.expect(b"here")
        assert b"30 100" in said and b"/dev/pts/" in said
        screen.resize(40, 120)
        os.kill(screen.client(), signal.SIGWINCH)
        screen.type(b"while [ \"$(stty size)\" != '40 120' ]; do sleep 0.1; done; echo lar''ge\n")
        screen.expect(b"large")
        screen.type(b"cat\nhello\n")
        screen.expect(b"hello")
        screen.expect(b"hello")  # what cat printed: it runs
        screen.type(b"\x03")
        screen.expect(b"# ")  # before that the shell would throw away what is typed
        screen.type(b"echo st''ill; exit 5\n")
        screen.expect(b"still")
        assert screen.code() == 5


def test_a_signal(host: Host, box: str) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    process = host.popen("vm", "exec", box, "--", "sh", "-c", script)
    wait_for_line(process, b"ready")
    process.send_signal(signal.SIGINT)
    wait_for_line(process, b"caught")
    assert process.wait(60) == 9


def test_a_published_port(host: Host, box: str, port: int) -> None:
    server = host.popen("vm", "exec", box, "--", "python3", "-u", "-m", "http.server", "80", "--directory", "/etc")
    try:
        assert server.stdout is not None
        server.stdout.readline()  # "Serving HTTP on"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/debian_version", timeout=60) as answer:
            assert answer.read().startswith(b"12")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def test_a_taken_port(host: Host, box: str, port: int) -> None:
    done = host.run("vm", "run", "--rm", "--net", "user", "--publish", f"{port}:80", "debian", "--", "true")
    assert done.code == 125
    assert str(port) in done.err


def test_volumes(host: Host, box: str) -> None:
    assert inside(host, "cat /mnt/share/in; echo back > /mnt/share/out") == b"from the host\n"
    assert (host.directory / "share/out").read_bytes() == b"back\n"
    done = host.run("vm", "exec", box, "--", "touch", "/mnt/suite/tests/x")
    assert done.code != 0 and not (ROOT / "tests/x").exists()


def test_host_and_guest_see_each_other(host: Host, box: str) -> None:
    """As SEMANTICS.md says: the host at once what is written; the guest within a second what it knew before."""
    root = Path(host.ok("vm", "inspect", box).json["root"])
    inside(host, "mkdir /both; echo guest > /both/f")
    assert (root / "both/f").read_bytes() == b"guest\n"
    (root / "both/g").write_bytes(b"host\n")
    assert inside(host, "cat /both/g") == b"host\n", "what the guest never looked at is there at once"
    (root / "both/f").write_bytes(b"changed on the host\n")
    (root / "both/g").unlink()
    assert not (root / ".monofs").exists(), "who is root in the guest could look into every tree"
    script = "until grep -q changed /both/f; do sleep 0.1; done; while [ -e /both/g ]; do sleep 0.1; done; cat /both/f"
    assert inside(host, script) == b"changed on the host\n"
    inside(host, "rm -r /both")
    assert not (root / "both").exists()


def test_cp(host: Host, box: str) -> None:
    plant(host.directory, {"copied": b"in\n"})
    host.ok("vm", "cp", "copied", "box:/root/copied")
    assert inside(host, "cat /root/copied; ln -s /etc/passwd /root/link; echo out > /root/made") == b"in\n"
    host.ok("vm", "cp", "box:/root/made", "made")
    host.ok("vm", "cp", "box:/root/link", "passwd")
    assert (host.directory / "made").read_bytes() == b"out\n"
    assert (host.directory / "passwd").read_bytes() != Path("/etc/passwd").read_bytes(), "the tree's, not the host's"


# What differs in a guest, and why. Everything else must be as on the host.
_TRUSTED = "trusted.* attributes need CAP_SYS_ADMIN on the host, which virtiofsd has given up"
DIFFERENCES = {
    "xattrs_come_and_go": _TRUSTED,
    "user_xattrs_are_for_files_and_directories": _TRUSTED,
    "xattrs_have_permissions": _TRUSTED,
    "setuid_is_cleared_by_a_write": "O_TRUNC alone does not clear the bits: virtiofsd 7.2, on any filesystem",
}
SOMETIMES = {
    "utimes_now_and_omit": "'now' is the host's; the clock of a guest that is emulated is some ms beside it",
}


def test_posix(host: Host, box: str) -> None:
    """The suite on the guest's root, and on a mount on the host."""
    env = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with public_directory() as at:
        host.ok("mount", "debian", str(at), "--name", "posix")
        (at / "posix").mkdir()
        words = [sys.executable, "-m", "tests.suites.posix", str(at / "posix")]
        here = subprocess.run(words, env={**os.environ, **env}, capture_output=True, check=True).stdout
        host.ok("umount", str(at))
    host.ok("forget", "posix")
    inside(host, "mkdir /posix-guest; chmod 755 /posix-guest")
    options = ["--env", "PYTHONPATH=/mnt/suite", "--env", "PYTHONDONTWRITEBYTECODE=1"]
    there = inside(host, "python3 -m tests.suites.posix /posix-guest", *options)
    failed = {where: failures(said) for where, said in (("host", here), ("guest", there))}
    assert here.count(b'{"case"') == there.count(b'{"case"') > 90
    assert failed["host"] == {}
    assert failed["guest"].keys() - SOMETIMES.keys() == DIFFERENCES.keys(), "\n".join(failed["guest"].values())


def failures(said: bytes) -> dict[str, str]:
    docs = [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]
    return {doc["case"]: f"{doc['case']}: {doc['error']}" for doc in docs if doc["error"]}


# A machine each


def test_run_changes_a_fork(host: Host) -> None:
    before = host.names()["debian"]
    done = host.run("vm", "run", "--rm", "debian", "--", "sh", "-c", "sort; echo hi > f; exit 3", input=b"2\n1\n")
    assert (done.code, done.out) == (3, b"1\n2\n")
    assert host.read(result_of(done), "f") == b"hi\n"
    assert host.names()["debian"] == before
    changed = host.ok("diff", before, result_of(done)).lines
    assert [line for line in changed if not line.startswith("M\t")] == ["A\tf"], changed


def test_a_time_limit_and_shared_blocks(host: Host) -> None:
    """A fork of a tree costs nothing, and a machine in it what it writes."""
    before = stored(host)
    script = "head -c 1000000 /dev/urandom > /var/lib/new; sync; sleep 1000"
    done = host.run("vm", "run", "--timeout", "5", "debian", "--", "sh", "-c", script)
    assert done.code == 124
    assert len(host.ok("cat", f"{result_of(done)}/var/lib/new").out) == 1_000_000
    new = stored(host) - before
    assert 1_000_000 <= new < 1_200_000, f"{new} bytes more"


def stored(host: Host) -> int:
    repository = Repository.open(host.store)
    try:
        return repository.store.usage().stored
    finally:
        repository.close()


@pytest.mark.parametrize("victim", ["qemu", "virtiofsd", "mount", "client"])
def test_kill(host: Host, victim: str) -> None:
    script = "echo saved > f; sync f; echo ready; sleep 1000"
    process = host.popen("vm", "run", "debian", "--", "sh", "-c", script)
    wait_for_line(process, b"ready")
    (row,) = [row for row in host.machines(living=True) if row["name"] is None]
    (mount,) = host.ok("status", row["root"], "--json").json
    pids = {what: found[0][0] for what, found in row["pids"].items()}
    kill({**pids, "mount": mount["pid"], "client": process.pid}[victim]) if victim != "client" else process.kill()
    _, err = process.communicate(timeout=120)
    until(lambda: host.ok("vm", "inspect", row["id"]).json["status"] not in ("starting", "running", "stopping"), 60)
    if victim != "client":
        assert process.returncode == 125
        words = {"qemu": "qemu", "virtiofsd": "virtiofsd", "mount": "mounted is gone"}
        assert any(line.startswith("monofs: ") and words[victim] in line for line in err.decode().splitlines()), err
    row = host.ok("vm", "inspect", row["id"]).json
    assert host.read(row["result"], "f") == b"saved\n"
    for pid in (*[one[0] for some in row["pids"].values() for one in some], row["supervisor"][0], mount["pid"]):
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
    assert not Path(row["root"]).exists()
    assert row["root"] not in host_mounts()
    assert host.ok("check").code == 0


def host_mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_a_tree_of_one_program(host: Host) -> None:
    """No init, no shell, no /proc, no /etc: the boot needs nothing from the tree but the program."""
    plant(host.directory / "one", {"busybox": Path("/bin/busybox").read_bytes()})
    os.chmod(host.directory / "one/busybox", 0o755)
    cid = host.ok("import", "one").text.strip()
    done = host.run("vm", "run", "--rm", "--memory", "128M", cid, "--", "/busybox", "echo", "hello")
    assert (done.code, done.out) == (0, b"hello\n")
    assert result_of(done) == cid, "and it leaves nothing behind"


def test_nothing_is_left_in_the_end(host: Host) -> None:
    for row in host.machines(living=True):
        host.ok("vm", "stop", row["id"])
    host.assert_clean()
