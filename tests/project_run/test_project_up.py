"""A project's machines through the commands, with machines that are plain processes: plans, order, policies, deaths."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.cli_command import plant
from tests.project_run.projects import TWO, Shop, one
from tests.suites.machine import wait_gone
from tests.vm.hosts import FAKE, kill, terminal, until
from vmm import state as vm_state
from vmm.project.state import State

pytestmark = [pytest.mark.mounted, pytest.mark.skipif(os.geteuid() != 0, reason="machines need root")]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    (tmp_path / "shop").mkdir()
    made = Shop(tmp_path / "shop", FAKE)
    made.ok("import", str(plant(tmp_path / "tree", {"f": b"old\n"})), "--name", "base")
    yield made.declare(TWO)
    made.end()


# Up and down


def test_up_and_down(shop: Shop) -> None:
    assert shop.up("--wait") == ["start db", "start web"]
    found = shop.ps()
    assert [(name, one["status"], one["health"]) for name, one in found.items()] == [
        ("web", "running", None),
        ("db", "running", "healthy"),
    ]
    assert found["db"]["tree"] == "shop/db" and os.path.ismount(found["db"]["root"])
    assert shop.row("db").created < shop.row("web").created
    assert shop.up() == ["nothing to do"]
    assert shop.ok("logs").lines == ["db  | db is up", "web | web is up"]
    assert shop.ok("logs", "web").lines == ["web is up"]
    assert [line.split() for line in shop.ok("down").lines] == [["stop", "web"], ["stop", "db"]]
    assert shop.row("web").ended < shop.row("db").ended  # type: ignore[operator]
    assert shop.own("cat", "shop/db/f").text == "old\nmore\n"
    assert shop.own("cat", "shop/db~1/f").text == "old\n"
    assert set(shop.status().values()) == {"down"}
    assert not shop.is_supervised()
    shop.quiet()
    shop.up()
    shop.ok("down")
    assert shop.own("cat", "shop/db/f").text == "old\nmore\nmore\n", "what it wrote was there the next time"


def test_a_plan_is_only_shown(shop: Shop) -> None:
    shop.ok("install")
    before = sorted(shop.directory.rglob("*"))
    assert shop.ok("up", "--dry-run", "--json").json == {
        "steps": [{"machine": name, "action": "start", "why": ""} for name in ("db", "web")]
    }
    assert sorted(shop.directory.rglob("*")) == before
    assert shop.status() == {"web": "down", "db": "down"}


def test_what_changed_is_restarted_what_is_gone_is_stopped(shop: Shop) -> None:
    shop.up()
    ids = {name: one["id"] for name, one in shop.ps().items()}
    shop.declare(TWO.replace("[machines.db]", "[machines.db]\nmemory = '1G'"))
    assert shop.up() == ["restart db (memory 512M -> 1G)"]
    after = shop.ps()
    assert (after["web"]["id"], after["db"]["id"] == ids["db"]) == (ids["web"], False)
    shop.declare(one("exec sleep 1000"))
    lines = shop.up()
    assert lines[0] == "stop db (no longer in monofs.toml)"
    assert lines[1].startswith("restart web (command sh -c")
    assert shop.status() == {"web": "running"}
    shop.ok("down")
    shop.quiet()


def test_names_and_what_they_need(shop: Shop) -> None:
    assert shop.up("db") == ["start db"]
    assert shop.up("web") == ["start web"]
    assert [line.split()[:2] for line in shop.ok("down", "web").lines] == [["stop", "web"]]
    assert shop.status() == {"web": "down", "db": "running"}
    shop.ok("down")
    assert shop.ok("down").lines == ["nothing to do"]
    assert "no machine 'wbe' in monofs.toml; there are: db, web" in shop.fails("up", "-d", "wbe", code=1)
    assert "no machine 'wbe'" in shop.fails("down", "wbe", code=1)
    assert "no machine 'wbe'" in shop.fails("exec", "wbe", "--", "true")


def test_no_project_and_nothing_installed(shop: Shop, tmp_path: Path) -> None:
    assert "monofs install" in shop.fails("down", code=1)
    assert set(shop.status().values()) == {"down"}
    shop.folder.manifest.unlink()
    for verb in (["up"], ["down"], ["ps"], ["logs"], ["restart"], ["reset", "x"]):
        assert "monofs add" in shop.fails(*verb, code=1)
    for verb in (["run", "x"], ["exec", "x", "--", "true"]):
        assert "monofs add" in shop.fails(*verb)


def test_restart(shop: Shop) -> None:
    assert "monofs up" in shop.run("restart").err
    shop.up()
    before = shop.ps()
    shop.ok("restart", "web")
    after = shop.ps()
    assert before["web"]["id"] != after["web"]["id"] and before["db"]["id"] == after["db"]["id"]
    shop.ok("down")


def test_a_failure_is_told_with_the_last_words(shop: Shop) -> None:
    shop.declare(one("echo one; echo two >&2; exit 3", depends_on="['db']") + "\n[machines.db]\nname='base'\n")
    found = shop.run("up", "-d")
    if found.code == 0:  # it had started; how it went is to be seen
        until(lambda: shop.status()["web"] == "exited")
    else:
        assert "web | two" in found.err and "exit code 3" in found.err
    assert shop.ps()["web"]["exit_code"] == 3
    again = [" ".join(line.split()) for line in shop.run("up", "-d").lines]
    assert again == ["start web (it ended with exit code 3)"]
    shop.ok("down")


def test_a_command_that_is_not_there(shop: Shop) -> None:
    shop.declare(one("").replace('["sh", "-c", ""]', '["/nosuch"]'))
    found = shop.run("up", "-d")
    assert found.code == 1
    assert "no such program" in found.err
    assert shop.status() == {"web": "failed"}
    assert not shop.is_supervised()


def test_a_need_that_fails(shop: Shop) -> None:
    shop.declare(TWO.replace('["sh", "-c", "echo db is up; echo more >> f; exec sleep 1000"]', '["/nosuch"]'))
    found = shop.run("up", "-d")
    assert found.code == 1
    assert "web: it waits for db" in found.err
    assert shop.status() == {"web": "waiting", "db": "failed"}
    shop.ok("down")


def test_a_need_that_is_not_healthy(shop: Shop) -> None:
    text = TWO.replace('depends_on = ["db"]', 'depends_on = { db = "healthy" }').replace("echo more >> f", "true")
    shop.declare(text.replace('interval = "1s"', 'interval = "1s", retries = 1'))
    found = shop.run("up", "-d")
    assert (found.code, found.err.splitlines()[-1]) == (1, "monofs: web: it waits for db, which is not healthy")
    assert shop.ps()["web"]["waits_for"] == ["db"]
    shop.ok("exec", "db", "--", "sh", "-c", "echo more >> f")
    until(lambda: shop.status()["web"] == "running")
    shop.ok("down")
    shop.quiet()


def test_a_port_that_is_taken(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shop.declare(one("exec sleep 1000", ports=f"['{port}:80']"))
        found = shop.run("up", "-d")
        assert found.code == 1
        assert f"machine 'web': port 127.0.0.1:{port} is taken by another program" in found.err
        assert not list(shop.folder.store.glob("vm/*/machine")), "before anything was booted"
    shop.up()
    assert shop.ps()["web"]["ports"] == [f"127.0.0.1:{port}->80"]
    shop.ok("down")


def test_a_port_that_a_machine_leaves_to_another(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = one("trap 'sleep 1; exit' TERM; while :; do sleep 0.1; done", ports=f"['{port}:80']")
    shop.declare(text).up()
    shop.declare(text.replace("[machines.web]", "[machines.www]"))
    assert [line.split(" (")[0] for line in shop.up()] == ["stop web", "start www"]
    assert shop.status() == {"www": "running"}
    shop.ok("down")
    shop.quiet()


# Policies


def test_a_machine_that_ends_at_once_is_started_again_with_pauses(shop: Shop) -> None:
    shop.declare(one("echo again; exit 1", restart="'always'"))
    shop.run("up", "-d")
    until(lambda: shop.ps()["web"]["restarts"] >= 3)
    assert shop.ok("logs", "web").lines.count("again") >= 3, "of earlier runs, too"
    assert 3 <= shop.ps()["web"]["restarts"] <= 8, "no busy loop"
    assert shop.is_supervised()
    shop.ok("down")
    assert not shop.is_supervised()
    shop.quiet()


def test_on_failure_so_many_times(shop: Shop) -> None:
    shop.declare(one("exit 1", restart="'on-failure:1'"))
    shop.run("up", "-d")
    until(lambda: not shop.is_supervised())
    assert (shop.ps()["web"]["restarts"], shop.status()["web"]) == (1, "exited")


# exec, run


def test_exec(shop: Shop) -> None:
    shop.up()
    found = shop.run("exec", "db", "--", "sh", "-c", "cat f; exit 5")
    assert (found.code, found.out) == (5, b"old\nmore\n")
    assert shop.ok("exec", "db", "--", "wc", "-c", input=b"12345").text.strip() == "5"
    shop.ok("down", "db")
    assert "monofs up -d db" in shop.fails("exec", "db", "--", "true")
    shop.ok("down")


def test_a_script_in_a_machine_that_is_up_and_in_one_that_is_not(shop: Shop) -> None:
    for _ in range(2):
        found = shop.run("run", "test")
        assert (found.code, found.out) == (7, b"old\n"), found.err
        assert shop.ok("run", "web:say", "--", "a", "b c").lines == ["a b c"]
        assert shop.ok("run", "line", "--", "a", "$(b  c)").lines == ["line a $(b  c)"]
        shop.up()
    assert shop.status()["web"] == "running"
    shop.ok("down")
    assert "there are: web:test, web:say, web:line" in shop.fails("run", "nosuch")
    shop.quiet()


def test_a_script_keeps_its_machine_from_starting(shop: Shop) -> None:
    shop.declare(TWO.replace('["echo"]', '["sh", "-c", "echo there; read x"]'))
    process = shop.popen("run", "say", stdin=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"there\n"
    assert "busy with a 'monofs run'" in shop.fails("run", "say").replace("another", "a")
    assert "busy with a 'monofs run'" in shop.run("up", "-d", "web").err
    process.communicate(b"x\n", timeout=60)
    assert process.returncode == 0
    shop.up()
    shop.ok("down")


# reset


def test_reset(shop: Shop) -> None:
    shop.up()
    assert "monofs down db" in shop.fails("reset", "db", code=1)
    shop.ok("down")
    reference = shop.own("names", "--json").json
    found = shop.ok("reset", "db")
    assert "what it was is shop/db~1" in found.err
    assert shop.own("cat", "shop/db/f").text == "old\n"
    assert shop.own("cat", "shop/db~1/f").text == "old\nmore\n"
    assert found.text.strip() != next(one["tree"] for one in reference["names"] if one["name"] == "shop/db")
    assert shop.ok("reset", "db").err == "", "there is nothing to do"
    assert shop.ok("install", "--json").json[1]["action"] == "same"


def test_reset_with_force_stops_it_and_starts_it_again(shop: Shop) -> None:
    shop.declare(one("echo more >> f; exec sleep 1000"))
    shop.up("--wait")
    until(lambda: shop.ok("exec", "web", "--", "cat", "f").text == "old\nmore\n")
    id = shop.ps()["web"]["id"]
    shop.ok("reset", "--force", "web")
    until(lambda: shop.ok("exec", "web", "--", "cat", "f").text == "old\nmore\n")
    assert shop.ps()["web"]["id"] != id
    shop.ok("down")
    assert shop.own("log", "shop/web").text.count("monofs reset") == 1


def test_reset_loses_nothing_that_was_only_committed(shop: Shop) -> None:
    """The machine's mount was killed after a commit: there is a head that no version has."""
    shop.declare(one("echo new > f; sync f; echo synced; exec sleep 1000"))
    shop.up()
    until(lambda: "synced" in shop.ok("logs", "web").text)
    root = Path(shop.ps()["web"]["root"])
    keeper = int(Path(os.fsdecode(os.getxattr(root, "system.monofs.socket"))).stem)
    kill(keeper)
    until(lambda: shop.status()["web"] != "running")
    shop.ok("down")
    shop.ok("reset", "web")
    assert shop.own("cat", "shop/web/f").text == "old\n"
    assert shop.own("cat", "shop/web~1/f").text == "new\n"


def test_after_an_update_what_is_up_moves_to_it_if_nobody_has_changed_it(shop: Shop) -> None:
    shop.up()
    shop.ok("import", str(plant(shop.directory.parent / "newer", {"f": b"newer\n"})), "--name", "base", "--update")
    found = shop.ok("update")
    assert "'shop/web' was changed, or is in use" in found.err
    lines = shop.up()
    assert lines == ["restart db (image changed)", "restart web (image changed)"]
    assert shop.ok("exec", "web", "--", "cat", "f").text == "newer\n"
    assert shop.ok("exec", "db", "--", "cat", "f").text.startswith("old\n"), "this one had changed its own"
    assert shop.up() == ["nothing to do"]
    shop.ok("reset", "--force", "db")
    until(lambda: shop.ok("exec", "db", "--", "cat", "f").text == "newer\nmore\n")
    shop.ok("down")
    assert shop.own("cat", "shop/db~2/f").text.startswith("old\nmore\n")


def test_what_was_reset_keeps_its_past_when_it_moves(shop: Shop) -> None:
    shop.up("db")
    shop.ok("down")
    shop.ok("reset", "db")
    shop.ok("import", str(plant(shop.directory.parent / "newer", {"f": b"newer\n"})), "--name", "base", "--update")
    shop.ok("update")
    assert shop.own("cat", "shop/db/f").text == "newer\n"
    assert shop.own("cat", "shop/db~2/f").text == "old\nmore\n"


# The foreground


def test_in_the_foreground_until_all_have_ended(shop: Shop) -> None:
    shop.declare(one("echo one; echo two >&2; printf three"))
    found = shop.ok("up")
    assert found.lines[0].split() == ["start", "web"]
    assert sorted(found.lines[1:]) == ["web | one", "web | three", "web | two"]
    shop.declare(one("echo bad; exit 9"))
    found = shop.run("up")
    assert (found.code, found.lines[-1]) == (1, "web | bad")
    assert "web: it ended with exit code 9" in found.err


def test_interrupted_it_goes_down(shop: Shop) -> None:
    process = shop.popen("up")
    assert process.stdout is not None
    while b"web is up" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, b"stopping" in err) == (0, True)
    assert set(shop.status().values()) == {"down"}
    shop.quiet()


def test_a_second_interrupt_kills(shop: Shop) -> None:
    shop.declare(one("trap '' TERM; echo here; while :; do sleep 1; done", stop_grace="'1h'"))
    process = shop.popen("up")
    assert process.stdout is not None
    while b"here" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    until(lambda: shop.status()["web"] == "stopping")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert shop.status()["web"] == "down"
    assert shop.row("web").exit_code == 128 + signal.SIGKILL
    shop.quiet()


def test_colours_on_a_terminal_only(shop: Shop) -> None:
    shop.declare(one("echo hello"))
    with terminal(shop, "up") as screen:
        screen.expect(b"\x1b[36mweb | \x1b[0mhello")
        assert screen.code() == 0


def test_following_across_restarts(shop: Shop) -> None:
    shop.declare(one("echo run; exec sleep 1000"))
    shop.up()
    process = shop.popen("logs", "-f", "--tail", "1")
    assert process.stdout is not None
    assert process.stdout.readline() == b"web | run\n"
    shop.ok("restart")
    assert process.stdout.readline() == b"web | run\n"
    shop.ok("down")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


# Kills


def test_kill_of_the_projects_supervisor(shop: Shop) -> None:
    shop.up("--wait")
    before, first = shop.ps(), shop.supervisor()
    kill(first)
    assert shop.row("web").supervised and shop.row("web").living
    after = shop.ps()
    assert [one["id"] for one in after.values()] == [one["id"] for one in before.values()], "the machines go on"
    assert set(shop.status().values()) == {"running"}
    assert shop.supervisor() != first
    until(lambda: shop.ps()["db"]["health"] == "healthy")
    kill(shop.supervisor())
    shop.ok("down")
    shop.quiet()


def test_kill_of_the_projects_supervisor_while_it_starts_machines(shop: Shop) -> None:
    process = shop.popen("up", "-d", stdout=subprocess.DEVNULL)
    until(shop.is_supervised)
    for _ in range(3):
        try:
            kill(shop.supervisor())
        except (ValueError, OSError):
            break
    process.communicate(timeout=60)
    shop.run("up", "-d")
    until(lambda: set(shop.status().values()) == {"running"})
    with vm_state.State(shop.folder.store / "vm") as listed:
        assert sorted(row.name or "" for row in listed.living()) == ["db", "web"]
    shop.ok("down")
    shop.quiet()


@pytest.mark.parametrize("victim", ["supervisor", "qemu"])
def test_kill_of_a_machine(shop: Shop, victim: str) -> None:
    """It is said to have died, and started again by its policy; one without a policy stays down."""
    for rule, status in (("always", "running"), ("no", "failed")):
        shop.declare(one("exec sleep 1000", restart=f"'{rule}'"))
        shop.up()
        row = shop.row("web")
        kill(row.supervisor.number if victim == "supervisor" else row.pids["qemu"][0].number)
        until(lambda: shop.row("web").id != row.id or shop.status()["web"] == "failed")  # noqa: B023
        until(lambda: shop.status()["web"] == status)  # noqa: B023
        assert shop.ps()["web"]["restarts"] == int(rule == "always")
        with vm_state.State(shop.folder.store / "vm") as listed:
            found = listed.get(row.id)
        assert found is not None and found.status == ("died" if victim == "supervisor" else "failed")
        shop.ok("down")
    shop.quiet()


def test_kill_of_everything_at_once(shop: Shop) -> None:
    shop.up()
    for pid in (shop.supervisor(), shop.row("web").supervisor.number, shop.row("db").supervisor.number):
        kill(pid)
    assert set(shop.status().values()) == {"failed"}
    assert shop.own("cat", "shop/db/f").code == 0
    shop.up()
    shop.ok("down")
    shop.quiet()


def test_after_a_reboot_nothing_runs(shop: Shop) -> None:
    shop.up()
    for pid in (shop.supervisor(), shop.row("web").supervisor.number, shop.row("db").supervisor.number):
        kill(pid)
    with State(shop.folder.mc) as state:
        state.change("UPDATE wished SET boot = 'another'")
    assert set(shop.status().values()) <= {"down", "failed"}
    assert not shop.is_supervised()
    assert shop.up() == ["start db", "start web"]
    shop.ok("down")


# Several at once


def test_two_ups_at_once(shop: Shop) -> None:
    shop.ok("install")
    both = [shop.popen("up", "-d") for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    with vm_state.State(shop.folder.store / "vm") as listed:
        assert sorted(row.name or "" for row in listed.living()) == ["db", "web"]
    shop.ok("down")
    shop.quiet()


def test_up_beside_down(shop: Shop) -> None:
    shop.ok("install")
    for _ in range(2):
        both = [shop.popen("up", "-d"), shop.popen("down")]
        codes = [process.wait(60) for process in both]
        assert set(codes) <= {0, 1}
        for process in both:
            process.communicate()
    shop.ok("down")
    assert set(shop.status().values()) <= {"down"}
    shop.quiet()


# Bad ground


def test_mc_is_removed_while_machines_run(shop: Shop) -> None:
    shop.up()
    pids = [shop.supervisor(), *(pid.number for name in ("web", "db") for pid in shop.row(name).processes())]
    shutil.move(shop.folder.mc, shop.directory.parent / "gone")
    for pid in pids:
        wait_gone(pid, 60)
    until(lambda: not shop.left_behind(), 60)
    assert not [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(shop.directory.parent) in line
    ]
    assert set(shop.status().values()) == {"down"}
    shop.up()
    shop.ok("down")
    shop.quiet()


def test_mc_is_removed_beside_a_follower(shop: Shop) -> None:
    process = shop.popen("up")
    assert process.stdout is not None
    while b"web is up" not in process.stdout.readline():
        pass
    shutil.move(shop.folder.mc, shop.directory.parent / "gone")
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert b".mc was taken away while machines ran" in err
    until(lambda: not shop.left_behind(), 60)


def test_a_full_disk(tmp_path: Path) -> None:
    """Machines go on, what cannot be done is told in a line, and with room again all is as wished."""
    (tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path / "disk"], check=True)
    try:
        (tmp_path / "disk/shop").mkdir()
        shop = Shop(tmp_path / "disk/shop", FAKE)
        shop.ok("import", str(plant(tmp_path / "tree", {"f": b"old\n"})), "--name", "base")
        shop.declare(one("exec sleep 1000", restart="'always'"))
        try:
            shop.up()
            row = shop.row("web")
            with (tmp_path / "disk/filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(bytes(1 << 20))
                    filler.flush()
            found = shop.run("restart", "web")
            assert found.code == 1 and found.err.count("\n") == 1, found.err
            assert shop.status()["web"] == "running"
            (tmp_path / "disk/filler").unlink()
            assert shop.row("web").id == row.id
            shop.ok("restart", "web")
            assert shop.row("web").id != row.id
            shop.ok("down")
            shop.quiet()
        finally:
            shop.end()
    finally:
        subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def test_a_broken_file_does_not_hide_what_runs(shop: Shop) -> None:
    shop.up()
    shop.declare("[machines.web\n")
    found = shop.ok("ps")
    assert "monofs.toml:1" in found.err and "running" in found.text
    assert "monofs.toml:1" in shop.fails("up", code=1)
    shop.ok("logs")
    shop.ok("down")
