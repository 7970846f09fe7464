"""`monofs vm` with machines that are plain processes: streams, signals, names, trees, and what deaths leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.cli_command import plant
from tests.vm.hosts import FAKE, Host, kill, result_of, terminal, until, wait_for_line

pytestmark = [pytest.mark.mounted, pytest.mark.skipif(os.geteuid() != 0, reason="machines need root")]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A store with a tree named t that holds the file f."""
    made = Host(tmp_path, FAKE)
    made.ok("import", str(plant(tmp_path / "tree", {"f": b"old\n", "dir/g": b"g\n"})), "--name", "t")
    yield made
    made.end()
    for log in tmp_path.glob("store/vm/*/supervisor.log"):
        print(log.read_text())


def cid(host: Host) -> str:
    return host.names()["t"]


# Streams and exit codes


def test_streams_exit_code_and_result(host: Host) -> None:
    before = cid(host)
    done = host.run("vm", "run", "t", "--", "sh", "-c", "cat f; echo new > f; echo oops >&2; exit 3")
    assert (done.code, done.out) == (3, b"old\n")
    assert done.err.splitlines()[0] == "oops"
    assert result_of(done) != before
    assert host.read(result_of(done), "f") == b"new\n"
    assert host.names()["t"] == before, "it worked on a fork"
    host.assert_clean()


def test_an_unchanged_fork_goes(host: Host) -> None:
    for target in ("t", cid(host)):
        done = host.ok("vm", "run", target, "--", "true")
        assert result_of(done) == cid(host)
        assert set(host.names()) == {"t"}


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["/nosuch"], 127), (["/work"], 126), (["sh", "-c", "kill -9 $$"], 137), (["sh", "-c", "exit 200"], 200)],
)
def test_exit_codes(host: Host, argv: list[str], code: int) -> None:
    done = host.run("vm", "run", "t", "--", *argv)
    assert done.code == code
    assert result_of(done) == cid(host)


def test_stdin_is_passed_on_from_a_pipe_and_a_file(host: Host) -> None:
    lines = b"".join(b"%d\n" % number for number in range(50_000, 0, -1))
    done = host.ok("vm", "run", "t", "--", "sort", "-n", input=lines)
    assert done.out == b"".join(b"%d\n" % number for number in range(1, 50_001))
    with open(host.directory / "tree/f", "rb") as file:
        assert host.ok("vm", "run", "t", "--", "cat", stdin=file).out == b"old\n"


def test_stdin_that_is_closed_or_empty_is_at_its_end(host: Host) -> None:
    assert host.ok("vm", "run", "t", "--", "wc", "-c").out.strip() == b"0"
    words = " ".join([*FAKE, "vm", "run", "t", "--", "wc", "-c"])
    done = subprocess.run(f"{words} <&-", shell=True, env=host.env, capture_output=True, cwd=host.directory)
    assert (done.returncode, done.stdout.strip()) == (0, b"0")


def test_a_command_that_reads_no_input_ends_all_the_same(host: Host) -> None:
    """The client's input goes on for ever, and is not even read to its end."""
    with open("/dev/zero", "rb") as endless:
        assert host.ok("vm", "run", "t", "--", "head", "-c", "10", stdin=endless).out == bytes(10)


def test_signals_pass_a_full_stdin(host: Host) -> None:
    with open("/dev/zero", "rb") as endless:
        process = host.popen("vm", "run", "t", "--", "sh", "-c", "echo ready; exec sleep 100", stdin=endless)
        wait_for_line(process, b"ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def test_much_output_in_order(host: Host) -> None:
    done = host.ok("vm", "run", "t", "--", "seq", "1", "2000000")
    expected = b"".join(b"%d\n" % number for number in range(1, 2_000_001))
    assert hashlib.sha256(done.out).digest() == hashlib.sha256(expected).digest()


def test_a_reader_that_goes_away(host: Host) -> None:
    process = host.popen("vm", "run", "t", "--", "yes")
    wait_for_line(process, b"y")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 141
    host.assert_clean()


def test_a_full_disk_for_stdout(host: Host) -> None:
    with open("/dev/full", "wb") as full:
        done = host.run("vm", "run", "t", "--", "seq", "10", stdout=full, stderr=subprocess.PIPE)
    assert done.code == 125
    assert "No space left" in done.err


def test_environment_and_directory(host: Host) -> None:
    plant(host.directory, {"vars": b"# a remark\nA=1\nB=two words\n"})
    words = ["--env-file", "vars", "--env", "B=3", "--env", "HOME", "--workdir", "/dir"]
    done = host.ok("vm", "run", *words, "t", "--", "sh", "-c", 'echo "$A $B $HOME"; ls')
    assert done.lines == [f"1 3 {host.directory}", "g"]


def test_a_time_limit(host: Host) -> None:
    done = host.run("vm", "run", "--timeout", "0.5", "t", "--", "sh", "-c", "echo kept > f; sleep 100")
    assert done.code == 124
    assert "time limit" in done.err
    assert host.read(result_of(done), "f") == b"kept\n"
    host.assert_clean()


# Signals and the terminal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_go_to_the_command(host: Host, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    process = host.popen("vm", "run", "t", "--", "sh", "-c", script)
    wait_for_line(process, b"ready")
    process.send_signal(number)
    wait_for_line(process, b"caught")
    assert process.wait(60) == 9
    host.assert_clean()


def test_the_third_ctrl_c_ends_the_machine(host: Host) -> None:
    script = "trap 'echo caught' INT; echo ready; while :; do sleep 0.05; done"
    process = host.popen("vm", "run", "t", "--", "sh", "-c", script)
    wait_for_line(process, b"ready")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        wait_for_line(process, b"caught")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 137
    assert process.stderr is not None and b"once more" in process.stderr.read()
    host.assert_clean()


def test_ctrl_c_while_it_boots(host: Host) -> None:
    process = host.popen("vm", "run", "t", "--", "true", env={"FAKE_BOOT_HANGS": "1"})
    until(lambda: list(host.store.glob("vm/*/machine/booting")))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    host.assert_clean()


def test_a_terminal(host: Host) -> None:
    with terminal(host, "vm", "run", "-i", "-t", "t", "--", "sh") as screen:
        before = termios.tcgetattr(screen.slave)
        screen.type(b"stty size; echo he''re $TERM\n")
        assert b"30 100" in screen.expect(b"here xterm")
        assert termios.tcgetattr(screen.slave) != before, "it is raw"
        screen.resize(40, 120)
        os.kill(screen.client(), signal.SIGWINCH)
        screen.type(b"while [ \"$(stty size)\" != '40 120' ]; do sleep 0.05; done; echo lar''ge\n")
        screen.expect(b"large")
        screen.type(b"sh -c 'trap \"echo int''errupted; exit\" INT; echo wai''ting; while :; do sleep 0.05; done'\n")
        screen.expect(b"waiting")
        screen.type(b"\x03")
        screen.expect(b"interrupted")
        screen.type(b"exit 5\n")
        screen.expect(b"result")
        assert screen.code() == 5
        assert termios.tcgetattr(screen.slave) == before


@pytest.mark.parametrize("how", ["SIGTERM", "supervisor"])
def test_the_terminal_is_as_it_was_whatever_happens(host: Host, how: str) -> None:
    with terminal(host, "vm", "run", "-i", "-t", "t", "--", "sh") as screen:
        before = termios.tcgetattr(screen.slave)
        screen.type(b"echo he''re\n")
        screen.expect(b"here")
        (row,) = host.machines(living=True)
        if how == "SIGTERM":
            screen.type(b"exec sleep 100\n")
            screen.expect(b"100")
            os.kill(screen.client(), signal.SIGTERM)
        else:
            kill(row["supervisor"][0])
        assert screen.code() in (143, 125)
        assert termios.tcgetattr(screen.slave) == before
    host.assert_clean()


def test_a_terminals_input_stays_here_without_i(host: Host) -> None:
    with terminal(host, "vm", "run", "t", "--", "wc", "-c") as screen:
        screen.expect(b"0\r\n")
        assert screen.code() == 0


# In the background


def test_detached(host: Host) -> None:
    id = host.detached("--name", "web", "t", "--", "sh", "-c", "echo out; echo err >&2; echo x > f; exec sleep 100")
    (row,) = host.machines(living=True)
    assert (row["id"], row["name"], row["status"]) == (id, "web", "running")
    until(lambda: host.ok("vm", "logs", "web").out == b"out\n")
    assert host.ok("vm", "logs", id[:6]).err == "err\n"
    done = host.run("vm", "exec", "web", "--", "sh", "-c", "cat f; echo y >> f; exit 4")
    assert (done.code, done.out) == (4, b"x\n")
    assert host.ok("vm", "exec", "web", "--", "tr", "a-z", "A-Z", input=b"abc").out == b"ABC"
    result = host.ok("vm", "stop", "web").text.strip()
    assert host.read(result, "f") == b"x\ny\n"
    assert host.ok("vm", "wait", "web").text == "143\n"
    assert host.ok("vm", "stop", "web").text.strip() == result, "to stop it again is no error"
    assert host.ok("vm", "logs", "-f", "web").out == b"out\n", "logs stay"
    assert host.ok("vm", "inspect", "web").json["result"] == result
    host.ok("vm", "rm", "web")
    assert host.machines() == []
    assert result in host.names().values(), "the tree stays"
    host.assert_clean()


def test_without_a_command_it_waits(host: Host) -> None:
    id = host.detached("t")
    assert host.ok("vm", "exec", id, "--", "cat", "f").out == b"old\n"
    assert host.ok("vm", "stop", id).text.strip() == cid(host)
    assert host.ok("vm", "wait", id).text == "0\n"


def test_a_detached_machine_that_cannot_start_says_so(host: Host) -> None:
    assert "no such program" in host.fails("vm", "run", "--detach", "t", "--", "/nosuch", code=127)
    assert "out of cheese" in host.fails("vm", "run", "--detach", "t", env={"FAKE_BOOT_FAILS": "1"})
    host.assert_clean()


def test_following_logs(host: Host) -> None:
    id = host.detached("t", "--", "sh", "-c", "echo one; until [ -e go ]; do sleep 0.05; done; echo two; echo err >&2")
    follower = host.popen("vm", "logs", "-f", id)
    wait_for_line(follower, b"one")
    host.ok("vm", "exec", id, "--", "touch", "go")
    out, err = follower.communicate(timeout=60)
    assert (out, err, follower.returncode) == (b"two\n", b"err\n", 0)


def test_wait_and_kill(host: Host) -> None:
    id = host.detached("t", "--", "sleep", "100")
    waiting = host.popen("vm", "wait", id)
    assert host.ok("vm", "kill", id).text.strip() == cid(host)
    assert waiting.communicate(timeout=60)[0] == b"137\n"
    host.assert_clean()


def test_stop_kills_what_does_not_listen(host: Host) -> None:
    id = host.detached("t", "--", "sh", "-c", "trap '' TERM; touch deaf; while :; do sleep 0.05; done")
    until(lambda: host.run("vm", "exec", id, "--", "test", "-e", "deaf").code == 0)
    host.ok("vm", "stop", "--time", "0.2", id)
    host.assert_clean()


def test_stop_while_it_boots(host: Host) -> None:
    starting = host.popen("vm", "run", "--detach", "t", env={"FAKE_BOOT_HANGS": "1"})
    until(lambda: list(host.store.glob("vm/*/machine/booting")))
    (row,) = host.machines(living=True)
    assert row["status"] == "starting"
    host.ok("vm", "stop", row["id"])
    starting.communicate(timeout=60)
    host.assert_clean()


def test_an_exec_client_that_goes_takes_its_command_along(host: Host) -> None:
    id = host.detached("t")
    client = host.popen("vm", "exec", id, "--", "sh", "-c", "echo $$; exec yes")
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    client.kill()
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert host.ok("vm", "exec", id, "--", "true").code == 0, "the machine goes on"
    host.ok("vm", "stop", id)


def test_names_of_living_machines_are_unique(host: Host) -> None:
    id = host.detached("--name", "one", "t")
    assert "one" in host.fails("vm", "run", "--name", "one", "t", "--", "true")
    assert "stop" in host.fails("vm", "rm", "one", code=1)
    host.ok("vm", "stop", "one")
    again = host.detached("--name", "one", "t")
    assert host.ok("vm", "inspect", "one").json["id"] == again != id
    host.ok("vm", "stop", "one")
    host.assert_clean()


def test_rm_and_the_list(host: Host) -> None:
    host.ok("vm", "run", "--rm", "t", "--", "sh", "-c", "echo x > f")
    assert host.machines() == []
    assert sorted(path.name for path in (host.store / "vm").iterdir() if len(path.name) == 12) == []
    host.ok("vm", "run", "t", "--", "true")
    header, row = host.ok("vm", "ps", "-a").lines
    assert header.split() == ["ID", "NAME", "STATUS", "CODE", "AGE", "TREE", "DIGEST", "COMMAND"]
    assert row.split()[2:4] == ["exited", "0"] and row.endswith("true")
    assert "no machine" in host.fails("vm", "inspect", "nope", code=1)


def test_looking_makes_no_store(host: Host) -> None:
    assert host.ok("vm", "ps", "-a", "--json", env={"MONOFS_STORE": str(host.directory / "none")}).json == []
    assert not (host.directory / "none").exists()


# The tree


def test_keep_makes_and_moves_names(host: Host) -> None:
    before = cid(host)
    done = host.ok("vm", "run", "--keep", "built", "t", "--", "sh", "-c", "echo 1 > f")
    assert host.names() == {"t": before, "built": result_of(done)}
    again = host.ok("vm", "run", "--keep", "built", "built", "--", "sh", "-c", "echo 2 > f")
    other = host.ok("vm", "run", "--keep", "built", "t", "--", "sh", "-c", "echo 3 > f")
    assert host.names() == {"t": before, "built": result_of(other)}
    versions = {one["name"]: one for one in host.ok("names", "--json").json["names"]}
    assert versions["built"]["previous"], "it has a history"
    assert result_of(again) != result_of(other)


def test_keep_is_checked_first_and_loses_nothing(host: Host) -> None:
    assert "no good name" in host.fails("vm", "run", "--keep", "no good", "t", "--", "true")
    mnt = host.directory / "mnt"
    mnt.mkdir()
    host.ok("mount", "t", "mnt")
    assert "mounted" in host.fails("vm", "run", "--keep", "t", "t", "--", "true")
    host.ok("umount", "mnt")
    id = host.detached("--keep", "t", "t", "--", "sh", "-c", "echo x > f; exec sleep 100")
    host.ok("mount", "t", "mnt")
    result = host.run("vm", "stop", id).text.strip()
    host.ok("umount", "mnt")
    row = host.ok("vm", "inspect", id).json
    assert host.names()[row["kept"]] == result, "somebody mounted the name meanwhile: the tree has the fork's"


def test_discard_and_read_only(host: Host) -> None:
    before = host.names()
    done = host.ok("vm", "run", "--discard", "t", "--", "sh", "-c", "echo x > f")
    assert result_of(done) != before["t"]
    assert host.names() == before
    done = host.run("vm", "run", "--read-only", "t", "--", "sh", "-c", "cat f; echo x > f")
    assert (done.code != 0, done.out) == (True, b"old\n")
    assert result_of(done) == before["t"]
    assert host.names() == before
    host.assert_clean()


@pytest.mark.parametrize("target", ["t/dir", "t~0/dir", "t/dir/"])
def test_a_path_in_a_tree_and_a_version(host: Host, target: str) -> None:
    assert host.ok("vm", "run", target, "--", "ls").out == b"g\n"


def test_a_mount_is_used_as_it_is(host: Host) -> None:
    mnt = host.directory / "mnt"
    mnt.mkdir()
    host.ok("mount", "t", "mnt")
    for target in (str(mnt), "./mnt", "mnt"):
        done = host.ok("vm", "run", target, "--", "sh", "-c", "cat f; echo more >> f")
        assert done.out == (mnt / "f").read_bytes()[:-5]
    assert host.ok("umount", "mnt").text.strip() == result_of(done)
    assert host.read("t", "f") == b"old\n" + b"more\n" * 3
    assert "no monofs is mounted" in host.fails("vm", "run", str(mnt), "--", "true")
    assert "mount's" not in host.fails("vm", "run", "--keep", "x", "nope", "--", "true")
    host.assert_clean()


def test_files_that_are_open_on_the_host(host: Host) -> None:
    id = host.detached("t", "--", "sleep", "100")
    with open(Path(host.ok("vm", "inspect", id).json["root"]) / "f", "rb"):
        done = host.run("vm", "stop", id)
        assert (done.code, done.text.strip()) == (0, cid(host))
    host.assert_clean()


def test_json(host: Host) -> None:
    done = host.run("vm", "run", "--json", "t", "--", "sh", "-c", "echo said; echo x > f; exit 3")
    doc = json.loads(done.out)
    assert (done.code, doc["exit_code"], done.err) == (3, 3, "said\n")
    assert doc["tree"] == cid(host) and host.read(doc["result"], "f") == b"x\n"
    assert doc["timings"].keys() >= {"fork", "mount", "command", "shutdown", "commit"}
    assert 0 < doc["first_byte"] < doc["total"]


# What is refused


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["nope", "--", "true"], "no name"),
        (["t", "--memory", "1M", "--", "true"], "memory"),
        (["t", "--memory", "lots", "--", "true"], "memory"),
        (["t", "--cpus", "0", "--", "true"], "CPU"),
        (["t", "--volume", "/nowhere:/v", "--", "true"], "/nowhere"),
        (["t", "--volume", "x", "--", "true"], "HOST:GUEST"),
        (["t", "--publish", "80", "--net", "user", "--", "true"], "HOSTPORT"),
        (["t", "--publish", "8080:80", "--", "true"], "--net user"),
        (["t", "--env-file", "/nowhere", "--", "true"], "/nowhere"),
        (["t", "--env", "=x", "--", "true"], "name"),
        (["t", "--timeout", "0", "--", "true"], "time limit"),
        (["t", "--timeout", "nan", "--", "true"], "time limit"),
        (["t", "--name", "a b", "--", "true"], "name"),
        (["t", "--workdir", "dir", "--", "true"], "absolute"),
        (["/", "--", "true"], "no monofs is mounted"),
        (["t", "true"], "after --"),
        (["t", "--keep", "a", "--discard", "--", "true"], "not allowed"),
        (["t", "--detach", "-i", "--", "true"], "--detach"),
        (["--", "true"], "required"),
        (["t", "--net", "all"], "choose"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be(host: Host, args: list[str], word: str) -> None:
    assert word in host.fails("vm", "run", *args)
    assert set(host.names()) == {"t"}
    assert host.machines() == []
    host.assert_clean()


def test_a_boot_that_fails(host: Host) -> None:
    done = host.run("vm", "run", "t", "--", "true", env={"FAKE_BOOT_FAILS": "1"})
    assert done.code == 125
    assert "out of cheese" in done.err
    (row,) = host.machines()
    assert (row["status"], row["exit_code"]) == ("failed", 125)
    assert set(host.names()) == {"t"}
    host.assert_clean()


# kill -9


@pytest.fixture
def running(host: Host) -> Iterator[tuple[Host, subprocess.Popen[bytes], dict[str, list[int]]]]:
    """A machine whose command has changed f, with everything that makes it up: process by process."""
    process = host.popen("vm", "run", "t", "--", "sh", "-c", "echo changed > f; sync f; echo ready; exec sleep 100")
    wait_for_line(process, b"ready")
    (row,) = host.machines(living=True)
    (mount,) = host.ok("status", row["root"], "--json").json
    pids = {"supervisor": row["supervisor"][0], "qemu": row["pids"]["qemu"][0][0], "mount": mount["pid"]}
    yield host, process, {**pids, "client": process.pid}
    process.kill()
    process.wait(60)


@pytest.mark.parametrize("victim", ["qemu", "mount", "supervisor"])
def test_kill(running: tuple[Host, subprocess.Popen[bytes], dict[str, int]], victim: str) -> None:
    host, process, pids = running
    kill(pids[victim])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 125
    lines = [line for line in err.decode().splitlines() if line.startswith("monofs: ")]
    assert any(
        {"qemu": "QEMU", "mount": "mounted is gone", "supervisor": "killed"}[victim] in line for line in lines
    ), err
    host.assert_clean()
    (row,) = host.machines()
    assert row["status"] == ("died" if victim == "supervisor" else "failed")
    assert host.read(row["result"], "f") == b"changed\n"
    assert host.read(row["kept"], "f") == b"changed\n"


def test_kill_of_the_client(running: tuple[Host, subprocess.Popen[bytes], dict[str, int]]) -> None:
    host, process, _ = running
    process.kill()
    until(lambda: not host.machines(living=True), 60)
    host.assert_clean()
    (row,) = host.machines()
    assert host.read(row["result"], "f") == b"changed\n"


def test_kill_of_all_at_once(running: tuple[Host, subprocess.Popen[bytes], dict[str, int]]) -> None:
    host, process, pids = running
    process.kill()
    kill(pids["supervisor"])
    kill(pids["mount"])
    (row,) = host.machines()
    assert row["status"] == "died"
    assert host.read(row["result"], "f") == b"changed\n"
    host.assert_clean()


def test_a_killed_supervisor_of_another_boot(host: Host) -> None:
    """Its pids mean nothing any more, and must not be killed."""
    from vmm.state import State

    id = host.detached("t", "--", "sleep", "100")
    (row,) = host.machines()
    kill(row["supervisor"][0])
    until(lambda: not Path(f"/proc/{row['pids']['qemu'][0][0]}").exists())
    bystander = subprocess.Popen(["sleep", "100"])
    try:
        with State(host.store / "vm") as state:
            from vmm.pids import Pid

            state.update(id, boot="another", pids={"qemu": [Pid.of(bystander.pid)]})
        assert host.machines(living=True) == []
        assert bystander.poll() is None
        assert host.ok("vm", "inspect", id).json["status"] == "died"
    finally:
        bystander.kill()
        bystander.wait()
    host.assert_clean()


def test_a_guest_that_never_answers_holds_nobody_up(host: Host) -> None:
    """As many clients as there may be ask it for something and go: it can be stopped all the same."""
    from vmm import client, limits, wire

    id = host.detached("--name", "box", "t")
    command = {"argv": ["/never-answers"], "env": [], "workdir": "/", "user": None}
    asking = [client.connect(host.store / "vm" / id) for _ in range(limits.clients_max)]
    for connection in asking:
        connection.sendall(wire.doc(op="exec", command=command))
    for connection in asking:
        connection.close()
    until(lambda: host.run("vm", "exec", "box", "--", "true").code == 0)
    host.ok("vm", "stop", "box")
    host.assert_clean()


# cp


def test_cp(host: Host) -> None:
    id = host.detached("--name", "box", "t")
    plant(host.directory, {"in/a": b"a", "in/deep/b": b"b", "single": b"s"})
    os.symlink("a", host.directory / "in/link")
    os.chmod(host.directory / "single", 0o4711)
    host.ok("vm", "cp", "in", "box:/dir")
    host.ok("vm", "cp", "single", "box:/new")
    host.ok("vm", "cp", "./single", f"{id[:5]}:/dir/g")
    done = host.ok("vm", "exec", "box", "--", "sh", "-c", "cat dir/in/deep/b dir/in/link new dir/g; stat -c %a new")
    assert done.out == b"bass4711\n"
    host.ok("vm", "cp", "box:dir", "out")
    host.ok("vm", "cp", "box:/new", ".")
    assert (host.directory / "out/in/deep/b").read_bytes() == b"b"
    assert os.readlink(host.directory / "out/in/link") == "a"
    assert (host.directory / "new").stat().st_mode & 0o7777 == 0o711, "no set-id bits from a guest"
    assert "one of the two" in host.fails("vm", "cp", "a", "b", code=2)
    host.fails("vm", "cp", "box:/nothing", ".", code=1)
    host.ok("vm", "stop", "box")
    assert "export" in host.fails("vm", "cp", "box:/f", ".", code=1)


def test_not_root(host: Host) -> None:
    for directory in (host.directory, *list(host.directory.parents)[:3]):
        directory.chmod(0o755)
    options = {"user": 65534, "group": 65534, "extra_groups": []}
    line = host.fails("vm", "run", "t", "--", "true", env={"MONOFS_STORE": str(host.directory / "other")}, **options)
    assert "root" in line and "sudo" in line


def test_doctor(host: Host) -> None:
    doc = json.loads(host.run("vm", "doctor", "--json", env={"MONOFS_STORE": str(host.directory / "none")}).out)
    assert {part["part"] for part in doc["parts"]} >= {"root", "fuse", "qemu", "virtiofsd", "kernel", "kvm"}
    assert all(part["found"] or part["advice"] for part in doc["parts"])
    assert not (host.directory / "none").exists()
