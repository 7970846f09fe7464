"""The command lines, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmm import argv
from vmm.argv import Boot, Sockets
from vmm.spec import MachineSpec, Publish, Volume

WORDS = (
    "console=ttyS0 quiet loglevel=0 panic=-1 reboot=t no_timer_check random.trust_cpu=on nowatchdog "
    "cryptomgr.notests audit=0 edd=off 8250.nr_uarts=1 rcupdate.rcu_expedited=1 rdinit=/init"
)
BOOT = Boot("/proc/self/fd/20", "/proc/self/fd/21")
PLAIN = MachineSpec(Path("/srv/tree"))
FULL = MachineSpec(
    Path("/srv/tree"),
    memory_bytes=1 << 30,
    cpus=2,
    volumes=(Volume(Path("/srv/a"), "/a"), Volume(Path("/srv/b"), "/b", read_only=True)),
    net="user",
    publish=(Publish(8080, 80), Publish(2222, 22, "0.0.0.0")),
)


def test_qemu_emulated() -> None:
    assert argv.qemu("/usr/bin/qemu-system-x86_64", PLAIN, "tcg", Sockets(10, 11, 12), BOOT) == [
        "/usr/bin/qemu-system-x86_64",
        *("-M", "q35,usb=off,vmport=off,graphics=off,smbus=off,sata=off,hpet=off,memory-backend=mem"),
        *("-accel", "tcg,tb-size=256", "-cpu", "max", "-bios", "qboot.rom"),
        *("-smp", "1", "-m", "512M"),
        *("-object", "memory-backend-memfd,id=mem,size=536870912,share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-kernel", "/proc/self/fd/20", "-initrd", "/proc/self/fd/21", "-append", f"{WORDS} mitigations=off"),
        *("-chardev", "socket,id=console,fd=10", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,max_ports=2"),
        *("-chardev", "socket,id=channel,fd=11", "-device", "virtserialport,chardev=channel,name=monofs"),
        *("-chardev", "socket,id=root,fd=12", "-device", "vhost-user-fs-pci,chardev=root,tag=root"),
    ]


def test_qemu_with_kvm_volumes_and_a_network() -> None:
    assert argv.qemu("qemu", FULL, "kvm", Sockets(10, 11, 12, (13, 14)), BOOT) == [
        "qemu",
        *("-M", "microvm,acpi=on,pcie=off,usb=off,isa-serial=on,memory-backend=mem"),
        *("-accel", "kvm", "-cpu", "host", "-global", "virtio-mmio.force-legacy=false"),
        *("-smp", "2", "-m", "1024M"),
        *("-object", "memory-backend-memfd,id=mem,size=1073741824,share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-kernel", "/proc/self/fd/20", "-initrd", "/proc/self/fd/21", "-append", WORDS),
        *("-chardev", "socket,id=console,fd=10", "-serial", "chardev:console"),
        *("-device", "virtio-serial-device,max_ports=2"),
        *("-chardev", "socket,id=channel,fd=11", "-device", "virtserialport,chardev=channel,name=monofs"),
        *("-chardev", "socket,id=root,fd=12", "-device", "vhost-user-fs-device,chardev=root,tag=root"),
        *("-chardev", "socket,id=volume0,fd=13", "-device", "vhost-user-fs-device,chardev=volume0,tag=volume0"),
        *("-chardev", "socket,id=volume1,fd=14", "-device", "vhost-user-fs-device,chardev=volume1,tag=volume1"),
        "-netdev",
        "user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80,hostfwd=tcp:0.0.0.0:2222-10.0.2.15:22",
        *("-device", "virtio-net-device,netdev=net"),
    ]


def test_there_is_no_network_unless_asked_for() -> None:
    for engine in ("kvm", "tcg"):
        words = " ".join(argv.qemu("qemu", PLAIN, engine, Sockets(1, 2, 3), BOOT))  # type: ignore[arg-type]
        assert "net" not in words.replace("qemu", "")


def test_virtiofsd_in_c() -> None:
    assert argv.virtiofsd("/usr/lib/qemu/virtiofsd", "c", Path("/srv/a,b\\c"), 7, read_only=False) == [
        *("/usr/lib/qemu/virtiofsd", "--fd=7", "-f", "-o"),
        r"source=/srv/a\,b\\c,cache=auto,xattr,posix_acl,sandbox=namespace,log_level=warn,no_readdirplus",
    ]


def test_virtiofsd_in_rust_of_what_may_not_be_written() -> None:
    assert argv.virtiofsd("/usr/libexec/virtiofsd", "rust", Path("/srv/a b"), 7, read_only=True) == [
        *("unshare", "--mount", "--propagation", "private", "--", "sh", "-c"),
        'mount --bind -o ro -- "$0" "$0" && exec "$@"',
        *("/srv/a b", "/usr/libexec/virtiofsd", "--shared-dir=/srv/a b", "--fd=7", "--cache=always"),
        *("--xattr", "--posix-acl", "--sandbox=namespace", "--log-level=warn"),
    ]


def test_the_cache_is_never_none() -> None:
    for flavour in ("c", "rust"):
        for read_only in (False, True):
            words = " ".join(argv.virtiofsd("virtiofsd", flavour, Path("/srv"), 7, read_only=read_only))
            assert ("cache=always" if read_only else "cache=auto") in words and "cache=none" not in words


@pytest.mark.parametrize("low", [False, True])
def test_qemu_has_no_privileges(low: bool) -> None:
    capabilities = "-all,+net_bind_service" if low else "-all"
    assert argv.unprivileged(["qemu", "-x"], 1234, (108,), low_ports=low) == [
        *("setpriv", "--pdeathsig", "KILL", "--no-new-privs", "--reuid=1234", "--regid=1234", "--groups=108"),
        *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", "--bounding-set=-all", "--", "qemu", "-x"),
    ]
    assert "--clear-groups" in argv.unprivileged(["qemu"], 1234, (), low_ports=low)


def test_everything_dies_with_its_parent() -> None:
    assert argv.with_parent(["virtiofsd", "-f"]) == ["setpriv", "--pdeathsig", "KILL", "--", "virtiofsd", "-f"]
