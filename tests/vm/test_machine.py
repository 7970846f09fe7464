"""Real machines, emulated: each boot takes seconds, so each test does much with one."""

from __future__ import annotations

import hashlib
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trio

from tests.vm.guests import busybox_tree, is_there, listing, run
from vmm import engine, limits, machine
from vmm.engine import Verdict
from vmm.errors import BadSpec, BootTimeout, CommandFailed, MachineDied, NoKernel, NotRoot
from vmm.machine import Machine, booted
from vmm.spec import Command, MachineSpec, Publish, Volume

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs root")]

PATIENCE = 240


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return busybox_tree(tmp_path / "root")


@asynccontextmanager
async def up(spec: MachineSpec, tmp_path: Path, cache: Path) -> AsyncIterator[Machine]:
    """A machine, which ends in time and leaves nothing."""
    with trio.fail_after(PATIENCE):
        async with booted(spec, tmp_path / "machine", cache) as made:
            pids = [pid for group in made.pids.values() for pid, _ in group]
            assert len(pids) >= 3 and all(map(is_there, pids))
            yield made
    assert not any(map(is_there, pids))
    assert not [path.name for path in (tmp_path / "machine").iterdir() if path.is_socket()]


async def test_a_day_in_a_machine(root: Path, tmp_path: Path, cache: Path, rng: random.Random) -> None:
    big = rng.randbytes(64 << 20)
    (root / "big").write_bytes(big)
    before = listing(root)
    phases: dict[str, float] = {}
    with trio.fail_after(PATIENCE):
        spec = MachineSpec(root, hostname="day", memory_bytes=limits.memory_bytes_min, engine="tcg")
        async with booted(spec, tmp_path / "machine", cache, phases.__setitem__) as made:
            assert phases.keys() == made.timings.keys() == {"plan", "virtiofsd", "firmware", "kernel", "agent"}
            assert made.engine == "tcg" and made.notes == [] and made.died is None
            await check_commands(made)
            await check_streams(made, big)
            await check_processes(made)
            await check_privileges(made)
            assert (await run(made, "hostname"))[1] == b"day\n"
            assert await made.power_off(5)
            assert made.ended.is_set() and made.died is None
            with pytest.raises(MachineDied):
                await made.start(Command(("true",)))
            assert await made.power_off(5) is False
    assert listing(root) == before  # booting, and mounting what the tree has no place for, changes nothing
    assert (tmp_path / "machine").stat().st_mode & 0o777 == 0o700


async def check_commands(made: Machine) -> None:
    assert await run(made, "sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
    assert await run(made, "sort", stdin=b"b\na\n") == (0, b"a\nb\n", b"")
    assert await run(made, "env", env=(("A", "1"),), user="12:34", workdir="/bin") == (
        *(0, b"A=1\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/\n"),
        b"",
    )
    with pytest.raises(CommandFailed, match="no such command") as caught:
        await run(made, "nonesuch")
    assert caught.value.exit_code == 127
    now = int((await run(made, "date", "+%s"))[1])
    assert abs(now - time.time()) < 30
    code, said, _ = await run(made, "sh", "-c", "tty; stty size; cat /proc/1/comm", terminal=True, rows=12, columns=34)
    assert (code, said) == (0, b"/dev/pts/0\r\n12 34\r\ninit\r\n")


async def check_streams(made: Machine, big: bytes) -> None:
    """64 MiB out, in order, the exit code after it; and some back in."""
    code, said, _ = await run(made, "sh", "-c", "cat big; exit 5")
    assert (code, len(said)) == (5, len(big))
    assert hashlib.md5(said).digest() == hashlib.md5(big).digest()
    back = (await run(made, "md5sum", stdin=big[: 4 << 20]))[1].split()[0].decode()
    assert back == hashlib.md5(big[: 4 << 20]).hexdigest()


async def check_processes(made: Machine) -> None:
    """Orphans are reaped, signals arrive, and several run at once."""
    slow = await made.start(Command(("sh", "-c", "trap 'echo bye; exit 4' TERM; echo hi; while :; do sleep 1; done")))
    async for _, data in slow.output():
        if data == b"hi\n":
            for _ in range(3):
                assert (await run(made, "sh", "-c", "(sleep 0.1 &) ; exit 0"))[0] == 0
            await slow.signal(signal.SIGTERM)
    assert await slow.wait() == 4
    for _ in range(100):
        zombies = (await run(made, "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status; true"))[1]
        if not zombies:
            break
    assert zombies == b""


async def check_privileges(made: Machine) -> None:
    """QEMU owns nothing, and virtiofsd is confined."""
    qemu = made.pids["qemu"][0][0]
    status = dict(re.findall(r"^(\w+):\t(.*)$", await trio.Path(f"/proc/{qemu}/status").read_text(), re.MULTILINE))
    assert all(int(uid) >= 0x6D000000 for uid in status["Uid"].split())
    assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    worker = made.pids["virtiofsd"][-1][0]
    assert os.readlink(f"/proc/{worker}/ns/mnt") != os.readlink("/proc/self/ns/mnt")


async def test_the_last_byte_is_kept(root: Path, tmp_path: Path, cache: Path) -> None:
    """Whatever was written when the machine is asked to go down, or because of it."""
    (root / "etc").mkdir()
    script = "trap 'echo last > /trapped; exit 0' TERM; echo up; while :; do sleep 0.2; done"
    async with up(MachineSpec(root), tmp_path, cache) as made:
        process = await made.start(Command(("sh", "-c", script)))
        async for _, data in process.output():
            assert data == b"up\n"
            break
        stubborn = await made.start(
            Command(("sh", "-c", "trap '' TERM HUP; echo up; exec dd if=/dev/zero of=/grown bs=1k"))
        )
        assert (await run(made, "dd", "if=/bin/busybox", "of=/copied", "bs=64k"))[0] == 0
        assert (await run(made, "sh", "-c", "echo hi > /f; mkdir -p /a/b; mount -t tmpfs none /a/b; touch /a/b/not"))[
            0
        ] == 0
        assert await made.power_off(3)
        assert await stubborn.wait() == 137
    assert (root / "f").read_text() == "hi\n" and (root / "trapped").read_text() == "last\n"
    assert (root / "copied").read_bytes() == (root / "bin/busybox").read_bytes()
    assert (root / "grown").stat().st_size > 0 and (root / "grown").stat().st_size % 1024 == 0
    assert not any((root / name).exists() for name in ("proc", "sys", "dev", "a/b/not"))


class Greeter(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from the host\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


async def test_network_volumes_and_a_root_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    root = busybox_tree(tmp_path / "root")
    (root / "etc").mkdir()
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    for place in ("proc", "dev", "data", "fixed"):
        (root / place).mkdir()
    before = listing(root)
    data, fixed = tmp_path / "da,ta", tmp_path / "fixed"
    for folder in (data, fixed):
        folder.mkdir()
        (folder / "file").write_text(f"{folder.name}\n")
    (data / "out").symlink_to(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = HTTPServer(("127.0.0.1", 0), Greeter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    spec = MachineSpec(
        root,
        root_read_only=True,
        cpus=2,
        volumes=(Volume(data, "/data"), Volume(fixed, "/fixed", read_only=True)),
        net="user",
        publish=(Publish(port, 80),),
        engine="tcg",
    )
    try:
        async with up(spec, tmp_path, cache) as made:
            assert await run(made, "cat", "/data/file", "/fixed/file") == (0, b"da,ta\nfixed\n", b"")
            assert (await run(made, "sh", "-c", "echo x > /data/new"))[0] == 0
            # Not even root of the guest can make these writable: the host does not take it.
            for place in ("/fixed", "/"):
                script = f"mount -o remount,rw {place}; echo x > {place}/new"
                code, _, error = await run(made, "sh", "-c", script)
                assert code != 0 and b"Read-only file system" in error
            assert (await run(made, "cat", f"/data/out/{data.name}/file"))[0] != 0
            assert (await run(made, "cat", "/etc/resolv.conf"))[1] == b"nameserver 10.0.2.3\n"
            assert (await run(made, "grep", "-c", "^processor", "/proc/cpuinfo"))[1] == b"2\n"
            url = f"http://10.0.2.2:{server.server_port}/"
            assert await run(made, "wget", "-q", "-O", "-", url) == (0, b"from the host\n", b"")
            await check_published(made, port)
            assert await made.power_off(2)
    finally:
        server.shutdown()
        server.server_close()
    assert (data / "new").read_text() == "x\n" and not (fixed / "new").exists()
    assert listing(root) == before


async def check_published(made: Machine, port: int) -> None:
    process = await made.start(Command(("busybox", "httpd", "-f", "-p", "80", "-h", "/data")))
    while True:  # QEMU takes the connection before anybody listens in the guest
        said = await trio.to_thread.run_sync(ask, port)
        if said:
            break
    assert said.startswith(b"HTTP/1.") and said.endswith(b"\r\n\r\nda,ta\n")
    await process.abandon()


def ask(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as stream:
            stream.sendall(b"GET /file HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: stream.recv(4096), b""))
    except ConnectionError:
        return b""


@pytest.mark.parametrize("victim", ["qemu", "virtiofsd", "guest"])
async def test_a_death_is_told_to_everybody(victim: str, root: Path, tmp_path: Path, cache: Path) -> None:
    async with up(MachineSpec(root), tmp_path, cache) as made:
        process = await made.start(Command(("sleep", "1000")))
        if victim == "guest":
            await made.start(Command(("sh", "-c", "echo c > /proc/sysrq-trigger")))
        else:
            os.kill(made.pids[victim][0][0], signal.SIGKILL)
        await made.ended.wait()
        why = {"guest": "the guest switched itself off or crashed; its console said: "}
        expected = why.get(victim, f"{victim} was killed by signal 9")
        assert made.died is not None and made.died.startswith(f"the machine died: {expected}"), made.died
        with pytest.raises(MachineDied, match=expected):
            await process.wait()
        with pytest.raises(MachineDied, match=expected):
            async for _ in process.output():
                pass
        with pytest.raises(MachineDied, match=expected):
            await made.start(Command(("true",)))
        assert await made.power_off() is False


OWNER = """
import os, sys, trio
from pathlib import Path
from vmm.machine import booted
from vmm.spec import MachineSpec
async def main():
    async with booted(MachineSpec(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])) as made:
        print(*[pid for group in made.pids.values() for pid, _ in group], flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def test_nothing_survives_its_owner(root: Path, tmp_path: Path, cache: Path) -> None:
    """kill -9 of the process that owns a machine."""
    program = [sys.executable, "-c", OWNER, str(root), str(tmp_path / "machine"), str(cache)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        descriptors = [os.pidfd_open(pid) for pid in pids]
        owner.kill()
    assert len(pids) >= 3
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + PATIENCE
    while descriptors and time.monotonic() < deadline:
        for descriptor, _ in poller.poll(1000):
            poller.unregister(descriptor)
            descriptors.remove(descriptor)
            os.close(descriptor)
    assert descriptors == []


async def test_an_error_or_a_cancel_in_the_block_ends_it_too(root: Path, tmp_path: Path, cache: Path) -> None:
    """What the block raised is what comes out, not a group of it."""
    with pytest.raises(KeyError, match="mine"):
        async with up(MachineSpec(root), tmp_path, cache) as made:
            process = await made.start(Command(("yes",)))
            raise KeyError("mine")
    with pytest.raises(MachineDied):
        await process.wait()
    assert not any(is_there(pid) for group in made.pids.values() for pid, _ in group)


async def test_kvm_that_gives_no_sign_of_life(
    root: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told that KVM works: where it does it is used; elsewhere that is found out, and emulation takes over."""
    honest = engine.verdict(tmp_path / "own").why_not
    trusting = tmp_path / "trusting"
    engine.remember(trusting, Verdict(engine.this_boot(), None))
    monkeypatch.setattr(limits, "sign_of_life_seconds", 2.0)
    async with up(MachineSpec(root), tmp_path, trusting) as made:
        assert (await run(made, "true"))[0] == 0
        assert made.engine == ("kvm" if honest is None else "tcg")
        assert [("the machine is emulated" in note) for note in made.notes] == ([] if honest is None else [True])
    assert (engine.verdict(trusting).why_not is None) == (honest is None)
    if honest is not None:
        engine.remember(trusting, Verdict(engine.this_boot(), None))
        with pytest.raises((BootTimeout, MachineDied)):
            async with booted(MachineSpec(root, engine="kvm"), tmp_path / "machine", trusting):
                pass


async def test_a_guest_that_does_not_come_up(
    root: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "boot_seconds", 0.3)
    with pytest.raises(BootTimeout, match="not up after 0 seconds"):
        async with booted(MachineSpec(root, engine="tcg"), tmp_path / "machine", cache):
            pass


async def test_what_is_missing_is_named(
    root: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "machine"
    (tmp_path / "file").touch()
    for spec, error, words in [
        (MachineSpec(tmp_path / "none"), BadSpec, "No such file"),
        (MachineSpec(tmp_path / "file"), BadSpec, "not a directory"),
        (MachineSpec(root, volumes=(Volume(tmp_path / "none", "/v"),)), BadSpec, "No such file"),
        (MachineSpec(root, kernel=tmp_path / "none"), NoKernel, "No such file"),
    ]:
        with pytest.raises(error, match=words):
            async with booted(spec, place, cache):
                pass
    machine.check(MachineSpec(tmp_path / "none"), cache)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotRoot, match="sudo"):
        machine.check(MachineSpec(root), cache)


async def test_a_port_that_is_taken(root: Path, tmp_path: Path, cache: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = MachineSpec(root, net="user", publish=(Publish(taken.getsockname()[1], 80),))
        with pytest.raises(MachineDied, match=r"qemu failed with 1 .*Could not set up host forwarding"):
            async with booted(spec, tmp_path / "machine", cache):
                pass
