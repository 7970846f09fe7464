"""What can go wrong with a machine; each error says what the caller can do, and its text is one line for the user."""

from __future__ import annotations


class VmError(Exception):
    """Base of every error of a machine. Its text is one line."""


class BadSpec(VmError):
    """What was asked for makes no sense or is over a limit. Nothing was started; ask for something else."""


class NoEngine(VmError):
    """No QEMU here, or not one that can do what was asked. Install or choose another."""


class NoKernel(VmError):
    """No guest kernel, or one that cannot mount its root. Install or name another."""


class NoVirtiofsd(VmError):
    """No virtiofsd here. Install it."""


class NoCompiler(VmError):
    """The guest agent is compiled on first use, and nothing here can. Install a compiler."""


class NotRoot(VmError):
    """virtiofsd needs root. Use sudo."""


class BootTimeout(VmError):
    """The guest did not come up in time. Its console says why, if anything does."""


class MachineDied(VmError):
    """The machine is gone, or broke the protocol and was ended. What it had not synced may be lost."""


class CommandFailed(VmError):
    """The command could not be started: `exit_code` is 126 or 127, as a shell has it. The machine goes on."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# The host's side


class NoMachine(VmError):
    """No machine is meant by what was typed. Look at what there is ('monofs vm ps -a')."""


class MachineNameTaken(VmError):
    """A living machine has that name. Choose another."""


class WrongState(VmError):
    """The machine is not in a state in which that can be done: it has ended, or it has not."""


class StateError(VmError):
    """The list of machines cannot be read or written."""


class SupervisorGone(VmError):
    """The process that looks after the machine is gone or does not answer."""


class BadProject(VmError):
    """A project's file does not say what it must. Its text has a line for everything that is wrong; mend these."""


class Outside(VmError):
    """A path that would lead out of the tree. Nothing was copied through it."""
