"""The agent and the channel to it, without a machine: the agent serves a socket pair here."""

from __future__ import annotations

import errno
import hashlib
import os
import pty
import random
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.vm.guests import collect
from vmm import frames, initramfs, limits
from vmm.channel import Channel
from vmm.errors import CommandFailed, MachineDied
from vmm.frames import HEADER, Kind
from vmm.spec import Command, MachineSpec

PATIENCE = 60


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return initramfs.agent(tmp_path_factory.mktemp("agent"))


@asynccontextmanager
async def talking(agent: Path) -> AsyncIterator[Channel]:
    """A channel to an agent that is up, ended afterwards; nothing may take longer than the patience of a test."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([agent, str(theirs.fileno())], pass_fds=[theirs.fileno()])  # noqa: ASYNC220
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
                nursery.start_soon(channel.run)
                assert await channel.hello() > 0
                await channel.set_up(MachineSpec(Path("/srv")), [])
                yield channel
                await channel.close()
    finally:
        process.kill()
        process.wait()


def is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def run(channel: Channel, *argv: str, stdin: bytes = b"", **options: object) -> tuple[int, bytes, bytes]:
    return await collect(await channel.start(Command(argv, **options)), stdin)  # type: ignore[arg-type]


async def test_streams_and_exit_codes(agent: Path) -> None:
    async with talking(agent) as channel:
        assert await run(channel, "sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
        assert await run(channel, "sort", stdin=b"b\na\n") == (0, b"a\nb\n", b"")
        assert await run(channel, "true") == (0, b"", b"")
        assert await run(channel, "sh", "-c", "kill -TERM $$") == (143, b"", b"")
        assert await run(channel, "cat", stdin=b"") == (0, b"", b"")


async def test_what_it_is_started_with(agent: Path, tmp_path: Path) -> None:
    async with talking(agent) as channel:
        place = str(tmp_path)
        assert await run(channel, "pwd", "-P", workdir=place) == (0, f"{place}\n".encode(), b"")
        _, said, _ = await run(channel, "env", env=(("A", "1"), ("HOME", "/h"), ("B", "x\udcff\ny")))
        assert (
            b"A=1\n" in said and b"HOME=/h\n" in said and b"B=x\xff\ny\n" in said and b"PATH=/usr/local/sbin:" in said
        )
        assert b"TERM" not in said and b"SHELL" not in said
        assert (await run(channel, "printf", "%s|", "", " a ", "*"))[1] == b"| a |*|"
        _, said, _ = await run(channel, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
        assert [int(line.split()[1], 16) for line in said.splitlines()] == [0, 0]
        _, said, _ = await run(channel, "ls", "/proc/self/fd")
        assert said.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own


async def test_path_is_searched_as_a_shell_does(agent: Path, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "plain").write_text("x")
    (tmp_path / "broken").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken").chmod(0o755)
    path = (("PATH", f"/no/such:{tmp_path}"),)
    async with talking(agent) as channel:
        assert await run(channel, "tool", env=path) == (0, b"tool\n", b"")
        assert (await run(channel, "./tool", workdir=str(tmp_path)))[1] == b"tool\n"
        for argv, options, code, why in [
            (("monofs-none",), {}, 127, "no such command"),
            (("./none",), {}, 127, "No such file"),
            (("plain",), {"env": path}, 126, "[Pp]ermission denied"),
            (("/",), {}, 126, "[Pp]ermission denied"),
            (("broken",), {"env": path}, 127, "no such command"),
            (("/bin/true/x",), {}, 127, "Not a directory"),
            (("true",), {"workdir": "/no/such"}, 126, "/no/such: No such file"),
            (("true",), {"user": "monofs-nobody"}, 126, "no user monofs-nobody"),
            (("true",), {"user": "root:monofs-nobody"}, 126, "no group monofs-nobody"),
        ]:
            with pytest.raises(CommandFailed, match=why) as caught:
                await run(channel, *argv, **options)  # type: ignore[arg-type]
            assert caught.value.exit_code == code, argv
        assert await run(channel, "true") == (0, b"", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_users(agent: Path) -> None:
    async with talking(agent) as channel:
        ids = "echo $(id -u):$(id -g):$(id -G); echo ok > /dev/stderr; cat /dev/stdin; grep CapEff /proc/self/status"
        for user, expected in [
            ("nobody", b"65534:65534:65534"),
            ("1234", b"1234:0:0"),
            ("1234:55", b"1234:55:55"),
            ("daemon:games", b"1:60:60"),
            ("65534:root", b"65534:0:0"),
        ]:
            code, said, error = await run(channel, "sh", "-c", ids, user=user, stdin=b"in\n")
            assert (code, said.splitlines()[:2], error) == (0, [expected, b"in"], b"ok\n"), user
            assert said.splitlines()[2].split()[1].strip(b"0") == b"", user
        assert (await run(channel, "sh", "-c", "echo $HOME", user="daemon"))[1] == b"/usr/sbin\n"
        assert (await run(channel, "id", "-u"))[1] == b"0\n"


async def test_much_output_in_order_and_the_exit_code_after_it(agent: Path) -> None:
    """A mebibyte of window, 64 of output."""
    script = "import os\nfor n in range(1024): os.write(1, bytes([n % 251]) * 65536)\nos.write(2, b'done')\nexit(9)"
    expected = hashlib.sha256()
    for number in range(1024):
        expected.update(bytes([number % 251]) * 65536)
    async with talking(agent) as channel:
        code, said, error = await run(channel, "/usr/bin/python3", "-c", script)
        assert (code, len(said), error) == (9, 64 << 20, b"done")
        assert hashlib.sha256(said).digest() == expected.digest()


async def test_much_input_comes_back(agent: Path, rng: random.Random) -> None:
    data = rng.randbytes(5_000_000)
    async with talking(agent) as channel:
        code, said, _ = await run(channel, "cat", stdin=data)
        assert code == 0 and said == data


async def test_a_reader_that_does_not_read_holds_up_only_its_own_command(agent: Path) -> None:
    async with talking(agent) as channel:
        flood = await channel.start(Command(("yes",)))
        both = await channel.start(Command(("sh", "-c", "yes >&2")))
        while sum(map(len, flood._received.values())) < limits.window_bytes:
            await flood._changed.wait()
        for _ in range(3):
            assert await run(channel, "echo", "quick") == (0, b"quick\n", b"")
        assert len(flood._received[1]) == limits.window_bytes
        assert len(both._received[2]) <= limits.window_bytes
        for process in (flood, both):
            await process.signal(signal.SIGKILL)
        assert (await collect(flood))[0] == 137
        assert (await collect(both))[0] == 137


async def test_a_command_that_does_not_read_its_input(agent: Path) -> None:
    async with talking(agent) as channel:
        process = await channel.start(Command(("sleep", "1000")))
        with trio.move_on_after(1) as scope:
            await process.write_stdin(bytes(10 << 20))
        assert scope.cancelled_caught
        assert await run(channel, "echo", "quick") == (0, b"quick\n", b"")
        await process.signal(signal.SIGTERM)
        assert await process.wait() == 143
        with pytest.raises(BrokenPipeError):
            await process.write_stdin(b"x")
        closing = await channel.start(Command(("sh", "-c", "exec <&-; sleep 1000")))
        with pytest.raises(BrokenPipeError):
            await closing.write_stdin(bytes(10 << 20))
        await closing.signal(signal.SIGKILL)
        assert await closing.wait() == 137


async def test_many_at_once_and_not_one_more(agent: Path) -> None:
    async with talking(agent) as channel:
        running = [await channel.start(Command(("cat",))) for _ in range(limits.commands_max)]
        with pytest.raises(CommandFailed, match="too many") as caught:
            await channel.start(Command(("cat",)))
        assert caught.value.exit_code == 126
        results: list[tuple[int, bytes, bytes]] = [(0, b"", b"")] * len(running)

        async def one(number: int) -> None:
            results[number] = await collect(running[number], b"%d" % number * 10_000)

        async with trio.open_nursery() as nursery:
            for number in range(len(running)):
                nursery.start_soon(one, number)
        assert results == [(0, b"%d" % number * 10_000, b"") for number in range(len(running))]
        assert await run(channel, "true") == (0, b"", b"")


async def test_background_children_hold_nothing_up(agent: Path) -> None:
    """What the command itself said is its output; it ends though others have its streams, and they go on."""
    async with talking(agent) as channel:
        said = await run(channel, "sh", "-c", "(yes & echo $! >&2); yes | head -c 300000; echo end")
        assert said[0] == 0 and b"end\n" in said[1] and said[1].count(b"y\n") >= 150_000
        background = int(said[2])
        # 64 of them do not use up the places
        for _ in range(limits.commands_max + 2):
            assert (await run(channel, "sh", "-c", "sleep 300 & echo $!"))[0] == 0
        assert is_there(background)
        os.kill(background, signal.SIGKILL)


async def test_signals_reach_the_whole_group(agent: Path) -> None:
    async with talking(agent) as channel:
        script = "trap 'echo got; exit 3' INT; echo ready; while :; do sleep 0.1; done"
        process = await channel.start(Command(("sh", "-c", script)))
        said = b""
        async for _, data in process.output():
            said += data
            if said == b"ready\n":
                await process.signal(signal.SIGINT)
        assert (await process.wait(), said) == (3, b"ready\ngot\n")
        await process.signal(signal.SIGINT)  # too late, and harmless


ON_A_TERMINAL = """
import os, signal, sys
def size(*_): os.write(1, b"size %d %d\\n" % os.get_terminal_size())
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])  # it is waited for: a handler could be late for the read
print(os.ttyname(0), os.environ["TERM"], flush=True)
size()
signal.sigwait([signal.SIGWINCH])
size()
for line in sys.stdin:
    print(f"<{line.strip()}>", flush=True)
print("end")
"""


async def test_a_terminal(agent: Path) -> None:
    async with talking(agent) as channel:
        command = Command(("/usr/bin/python3", "-c", ON_A_TERMINAL), terminal=True, rows=11, columns=22)
        process = await channel.start(command)
        said = b""
        steps = [
            (b"size 22 11\r\n", lambda: process.resize(33, 44)),
            (b"size 44 33\r\n", lambda: process.write_stdin(b"hello\n")),
            (b"<hello>", process.close_stdin),
        ]
        async for stream, data in process.output():
            assert stream == 1
            said += data
            while steps and steps[0][0] in said:
                await steps.pop(0)[1]()
        assert await process.wait() == 0
        assert said.startswith(b"/dev/pts/") and b" xterm\r\n" in said and said.endswith(b"end\r\n") and not steps


async def test_ctrl_c_on_a_terminal(agent: Path) -> None:
    async with talking(agent) as channel:
        process = await channel.start(Command(("cat",), terminal=True))
        said = b""
        await process.write_stdin(b"ready\n")
        async for _, data in process.output():
            said += data
            if said == b"ready\r\nready\r\n":  # once from the terminal, once from cat
                await process.write_stdin(b"\x03")
        assert await process.wait() == 130


async def test_much_output_on_a_terminal(agent: Path) -> None:
    async with talking(agent) as channel:
        code, said, _ = await run(channel, "sh", "-c", "stty -onlcr; seq 100000; exit 5", terminal=True)
        assert code == 5 and said.split() == [b"%d" % number for number in range(1, 100_001)]


async def test_abandoned_commands_are_killed(agent: Path) -> None:
    async with talking(agent) as channel:
        process = await channel.start(Command(("sh", "-c", "echo $$; exec yes")))
        async for _, data in process.output():
            pid = int(data.split(b"\n")[0])
            break
        await process.abandon()
        assert await process.wait() == 137
        assert not is_there(pid)
        # also one whose start nobody waits for any more
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.start(Command(("yes",)))
        assert await run(channel, "true") == (0, b"", b"")
        while channel._processes:
            await run(channel, "true")


async def test_power_off_tells_what_still_ran(agent: Path) -> None:
    async with talking(agent) as channel:
        process = await channel.start(Command(("sleep", "1000")))
        assert await channel.power_off(0.1) == (True, "")
        with pytest.raises(MachineDied, match="powered off while the command ran"):
            await process.wait()
        pid = (await trio.to_thread.run_sync(subprocess.check_output, ["pgrep", "-f", "^sleep 1000$"])).split()
        for one in pid:
            os.kill(int(one), signal.SIGKILL)  # the agent ends everything only as PID 1
        await channel.halt()


def talk_nonsense(agent: Path, data: bytes) -> int:
    """Say something to an agent of its own and hang up; return how it ended."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([agent, str(theirs.fileno())], pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
    sender = threading.Thread(target=say_all, args=(ours, data))
    try:
        with ours:
            ours.settimeout(PATIENCE)
            sender.start()
            with suppress(ConnectionResetError):
                while ours.recv(1 << 16):  # a host always reads, and so must we
                    pass
            sender.join()
            return process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


def say_all(stream: socket.socket, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)


def test_the_agent_checks_the_host_too(agent: Path, rng: random.Random) -> None:
    """It says why and ends (3); it never crashes (-11) and never hangs."""
    setup = frames.setup(read_only=False, net=False, now_ns=0, hostname="x", volumes=[])
    start = frames.start(1, Command(("cat",)))
    for data in [
        b"",
        HEADER.pack(limits.frame_bytes_max + 1, 1, Kind.STDIN),
        frames.encode(0, Kind.SETUP, b"short"),
        setup + setup,
        start,
        setup + start + start,
        setup + frames.encode(1, Kind.START, struct.pack("<IHHIII", 0, 1, 1, 1, 0, 0) + b"\0\0"),
        setup + frames.encode(1, Kind.START, struct.pack("<IHHIII", 0, 1, 1, 1, 0xFFFFFFFF, 0xFFFFFFFF) + b"\0" * 9),
        setup + frames.encode(1, Kind.START, struct.pack("<IHHIII", 0, 1, 1, 1, 1, 0) + b"cat\0/\0\0more"),
        setup + start + frames.encode(1, Kind.STDIN, bytes(limits.frame_bytes_max)) * 3,
        setup + start + frames.encode(1, Kind.SIGNAL, struct.pack("<I", 65)),
        setup + start + frames.encode(1, Kind.GRANT, struct.pack("<II", 3, 1)),
        frames.encode(0, Kind.POWER_OFF, b""),
    ]:
        assert talk_nonsense(agent, data) == 3, data[:60]
    for round in range(40):
        data = b"".join(
            frames.encode(
                rng.choice([0, 1, 1, 2]), rng.choice(list(Kind)), rng.randbytes(rng.choice([0, 4, 8, 20, 60]))
            )
            for _ in range(30)
        )
        assert talk_nonsense(agent, setup + start + data) in (0, 3), round


def test_a_terminal_is_really_one() -> None:
    """The tests above rely on /dev/pts here."""
    try:
        for fd in pty.openpty():
            os.close(fd)
    except OSError as error:
        assert error.errno == errno.ENOENT
        raise
