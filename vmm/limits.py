"""Every bound of a machine, by name."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

memory_bytes_min: Final = 96 * MIB
memory_bytes_max: Final = 1024 * GIB
cpus_max: Final = 64
volumes_max: Final = 16
publish_max: Final = 64
hostname_bytes_max: Final = 63
path_bytes_max: Final = 4095

# A command: arguments and environment together, and how many of them.
command_bytes_max: Final = 192 * KIB
command_strings_max: Final = 16 * KIB
commands_max: Final = 64  # running in one machine at a time
rows_max: Final = 4096

# The protocol (PROTOCOL.md; the agent's own copy is in agent.c, and a test compares them).
frame_bytes_max: Final = 256 * KIB
window_bytes: Final = 1 * MIB  # of a command's stdout, and of its stderr, sent but not yet taken by the reader
stdin_window_bytes: Final = 256 * KIB
message_bytes_max: Final = 4 * KIB

console_bytes_max: Final = 256 * KIB  # of each of two files: the one being written and the one before
log_bytes_max: Final = 256 * KIB
console_tail_lines: Final = 3  # shown when a machine dies
console_line_bytes_max: Final = 200

initramfs_bytes_max: Final = 64 * MIB
kernel_bytes_max: Final = 512 * MIB
probe_bytes_max: Final = 64 * KIB

boot_seconds: Final = 120.0  # from QEMU's start to the agent's word that the root is mounted
sign_of_life_seconds: Final = 8.0  # under KVM, to the first byte of any kind; TCG is tried after it
probe_seconds: Final = 10.0
grace_seconds: Final = 10.0  # between TERM and KILL for what runs in a guest
unmount_seconds: Final = 60.0  # for a guest to write back, unmount and power off after that
blame_seconds: Final = 0.2  # when one process of a machine has ended, for the others to show that they did before
end_seconds: Final = 5.0  # between TERM and KILL for QEMU and virtiofsd

# The host's side
state_busy_seconds: Final = 30.0  # another process writes to the list of machines
ended_machines_max: Final = 200  # kept in the list, with their logs; older ones go
wire_frame_bytes_max: Final = 2 * MIB  # between a client and a supervisor
wire_stdin_bytes_max: Final = 256 * KIB  # sent by a client and not yet taken by the machine
wire_data_bytes_max: Final = 64 * KIB  # of stdin or output in one frame
log_segment_bytes_max: Final = 8 * MIB  # of a machine's output; there are two segments, the older one goes
clients_max: Final = 64  # connected to one supervisor at a time
stop_seconds: Final = 10.0  # between asking what runs in a machine to end and killing it
last_words_seconds: Final = 10.0  # for clients to take what they wait for, once the machine is gone
give_back_seconds: Final = 120.0
kill_seconds: Final = 5.0  # after KILL, for a command to be gone; then its machine is ended
leftover_seconds: Final = 2.0  # for what still runs in a machine whose command has ended
copy_depth_max: Final = 200  # directories in directories, two of them open for each
copy_links_max: Final = 40

# A project's files
manifest_bytes_max: Final = 1 * MIB  # of monofs.toml, of monofs.lock and of a file of variables
machines_max: Final = 100
texts_max: Final = 1000  # arguments of a command, variables, scripts, files of variables
text_bytes_max: Final = 32 * KIB
project_name_bytes_max: Final = 40  # shorter than anything that could be taken for a CID
machine_name_bytes_max: Final = 63
retries_max: Final = 1000
wait_seconds_max: Final = 86_400.0  # of any time that a project says
problems_max: Final = 50  # told of one file
