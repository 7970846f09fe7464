"""The verbs: what there is, in which group, and where the code is. Nothing else is loaded for `monofs --help`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, NamedTuple

Run = Callable[[Any], int]  # argparse.Namespace, which is not imported here
Options = Callable[[Any], None]


class Verb(NamedTuple):
    """`function` of `module` runs the verb; its docstring is the help. `<function>_options` adds the arguments."""

    name: str
    module: str
    function: str
    summary: str

    def load(self) -> Run:
        run: Run = getattr(self._module(), self.function)
        return run

    def load_options(self) -> Options:
        options: Options = getattr(self._module(), self.function.rstrip("_") + "_options")
        return options

    def _module(self) -> Any:
        return import_module("monofs_fuse.cli." + self.module)


GROUPS: Final = {
    "Trees in and out": (
        Verb("import", "importing", "import_", "store a directory tree; prints its CID"),
        Verb("export", "exporting", "export", "write a tree to a directory or a tar file"),
    ),
    "Working in a tree": (
        Verb("mount", "mounts", "mount", "mount a tree to read and write it"),
        Verb("status", "mounts", "status", "what is mounted, and what is not saved yet"),
        Verb("checkpoint", "mounts", "checkpoint", "save a name's tree as a version; prints its CID"),
        Verb("umount", "mounts", "umount", "save and unmount; prints the tree's CID"),
    ),
    "Looking without mounting": (
        Verb("ls", "listing", "ls", "list a directory"),
        Verb("cat", "look", "cat", "print files"),
        Verb("stat", "look", "stat", "show all that is stored about one file"),
        Verb("du", "look", "du", "sum up sizes"),
        Verb("diff", "diffing", "diff", "list what differs between two trees"),
    ),
    "Bringing work together": (
        Verb("merge", "merging", "merge", "merge other trees into a name"),
        Verb("conflicts", "merging", "conflicts", "list what merges could not decide"),
        Verb("tombstones", "merging", "tombstones", "list what a tree no longer has"),
    ),
    "History": (
        Verb("log", "history", "log", "list the versions of a name, or of one file in it"),
        Verb("show", "history", "show", "show a version and what it changed"),
        Verb("restore", "past", "restore", "make a tree, or paths in it, what an earlier version had"),
        Verb("undelete", "past", "undelete", "bring deleted files back"),
        Verb("prune", "past", "prune_", "let go of old versions; says exactly what that frees"),
    ),
    "Keeping": (
        Verb("names", "keep", "names", "list names and pins"),
        Verb("name", "keep", "name", "give a tree a name"),
        Verb("forget", "keep", "forget", "remove a name or a pin, and free what only it held"),
    ),
    "Images": (
        Verb("pull", "pulling", "pull_", "fetch an image from a registry; prints its CID"),
        Verb("push", "pushing", "push", "send an image, a tree or what changed to a registry"),
        Verb("images", "images", "images_", "list the images"),
        Verb("image", "images", "image", "inspect, history, rm, tag, prune"),
        Verb("load", "images", "load", "take images out of a docker save or OCI archive"),
        Verb("save", "pushing", "save", "write images to an archive that docker load reads"),
        Verb("login", "pulling", "login", "tell a registry who you are, and remember it"),
        Verb("logout", "pulling", "logout", "forget that again"),
    ),
    "Projects": (
        Verb("add", "projects", "add", "add a machine to monofs.toml, lock and install it"),
        Verb("remove", "projects", "remove", "take a machine out again"),
        Verb("install", "projects", "install", "make .mc from monofs.toml and monofs.lock"),
        Verb("update", "projects", "update", "lock what images, names and directories are now"),
        Verb("outdated", "project_trees", "outdated", "list what 'update' would change"),
        Verb("tree", "project_trees", "tree", "show machines, what they are made from, their sizes"),
        Verb("schema", "projects", "schema", "print the JSON schema of monofs.toml"),
    ),
    "A project's machines": (
        Verb("up", "project_up", "up", "let the machines run as monofs.toml declares them"),
        Verb("down", "project_up", "down", "stop them and save their trees"),
        Verb("ps", "project_ps", "ps", "how the machines are"),
        Verb("logs", "project_logs", "logs", "print what they wrote"),
        Verb("exec", "project_exec", "exec_", "run one more command in a machine"),
        Verb("restart", "project_up", "restart", "stop machines and start them once more"),
        Verb("run", "project_exec", "run", "run a script of monofs.toml in its machine"),
        Verb("reset", "project_reset", "reset", "make trees what they were when they were installed"),
    ),
    "The store": (
        Verb("init", "upkeep", "init", "make a store (done by itself on first use)"),
        Verb("store-info", "upkeep", "store_info", "where the store is and how much is in it"),
        Verb("gc", "upkeep", "gc", "delete what nothing refers to"),
        Verb("check", "checking", "check", "verify every block and every count"),
        Verb("store", "stores", "store", "copy a store, compact it, list the layers over it"),
    ),
    "Machines": (
        Verb("vm doctor", "vm_doctor", "doctor", "what can run here, and what to install"),
        Verb("vm run", "vm_run", "run", "run a command in a microVM on a fork of a tree"),
        Verb("vm exec", "vm_exec", "exec_", "run one more command in a machine"),
        Verb("vm ps", "vm_list", "ps", "list the machines that run, with -a all"),
        Verb("vm logs", "vm_list", "logs", "print what a machine's command wrote"),
        Verb("vm stop", "vm_end", "stop", "ask a machine to end; prints its tree's CID"),
        Verb("vm kill", "vm_end", "kill", "end a machine at once; prints its tree's CID"),
        Verb("vm wait", "vm_end", "wait", "wait for a machine's end; prints the exit code"),
        Verb("vm rm", "vm_end", "rm", "forget machines that have ended, and their logs"),
        Verb("vm inspect", "vm_list", "inspect", "print all that is known of a machine"),
        Verb("vm cp", "vm_copy", "cp", "copy files into a machine's tree or out of it"),
    ),
    "The shell": (Verb("completion", "completion", "completion", "print a completion script for bash, zsh or fish"),),
}
ALL: Final = tuple(verb for group in GROUPS.values() for verb in group)
FAMILIES: Final = frozenset(verb.name.partition(" ")[0] for verb in ALL if " " in verb.name)  # vm, of `monofs vm run`
_HIDDEN: Final = (Verb("__complete", "completion", "candidates", "what the completion scripts ask"),)

_OVERVIEW: Final = """\
usage: monofs [--store DIR] COMMAND ...

Directory trees, stored by content and mounted as a filesystem. A tree is known
by its CID, which is a function of its content alone, or by a name you give it.

{groups}

Options, before or after the command
  --store DIR    the store: else MONOFS_STORE, else $XDG_DATA_HOME/monofs
                 (~/.local/share/monofs)
  --help         this text; after a command, help on that command
  --version      print the version

Examples
  cid=$(monofs import ~/src)          store a tree
  monofs mount $cid /mnt              work in it
  monofs umount /mnt                  save it; prints the new CID
  monofs import ~/src --name src      store it under a name
  monofs ls -l src/docs               look into it without mounting

Exit codes: 0 done; 1 an error, explained in one line on stderr; 2 wrong usage;
130 interrupted by Ctrl-C; 141 the reader of the output went away."""


def find(name: str) -> Verb | None:
    """Return the verb of that name; some have two words with a space between them."""
    return next((verb for verb in (*ALL, *_HIDDEN) if verb.name == name), None)


def overview() -> str:
    groups = [
        "\n".join([title, *(f"  {verb.name:<14} {verb.summary}" for verb in group)]) for title, group in GROUPS.items()
    ]
    return _OVERVIEW.format(groups="\n\n".join(groups))


def family(name: str) -> str:
    """Return the help on a first word that others follow."""
    lines = [f"  {verb.name:<14} {verb.summary}" for verb in ALL if verb.name.startswith(f"{name} ")]
    return "\n".join([f"usage: monofs {name} COMMAND ...", "", *lines, "", "Each has --help."])
