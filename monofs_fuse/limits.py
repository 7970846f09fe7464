"""Every bound of the mount, by name."""

from typing import Final

MIB: Final = 1024 * 1024

commit_seconds: Final = 5.0

# Unsaved edits: a commit starts at the first limit, or at the second if they are small and scattered, since it has to
# write whole chunks of 64 KiB for each; writers wait at the third.
unsaved_bytes_soft: Final = 32 * MIB
unsaved_bytes_scattered: Final = 96 * MIB
unsaved_bytes_hard: Final = 160 * MIB
scattered_write_bytes: Final = 16 * 1024  # on average, below this
dirty_names_soft: Final = 10_000
dirty_names_hard: Final = 40_000

# The kernel is asked to forget the oldest inodes over this many.
inodes_max: Final = 60_000
trim_seconds: Final = 1.0
trim_names: Final = 2_000  # asked for at a time
trim_rounds_max: Final = 100  # before a pause

links_max: Final = 1 << 20
xattr_set_bytes_max: Final = 384 * 1024

gc_seconds: Final = 1.0
gc_blocks_per_step: Final = 256  # an fsync may have to wait for one: cold, a block takes the disk about a millisecond
gc_steps_per_commit: Final = 16

trail_names: Final = 256  # given out by a listing, that are packed together
trails_kept_max: Final = 256  # of listings that have ended
trail_bytes_kept_max: Final = 8 * MIB

entry_seconds: Final = 86_400.0  # the mount is the tree's only writer, so what the kernel knows stays true

request_bytes_max: Final = 64 * 1024  # on the control socket
reply_bytes_max: Final = 1 * MIB
late_bytes_max: Final = 256 * 1024  # of a file that was written to too late, to be merged between two requests
hold_seconds_max: Final = 60.0  # that edits wait for somebody who moves the name
start_seconds: Final = 60.0
read_ahead_kb: Final = 1024
ahead_bytes_max: Final = 128 * 1024  # a file no larger than this is put into the kernel's cache when it is opened
# Checkpoints that come by themselves; one that failed is tried again after `auto_retry_seconds`, or sooner.
auto_seconds_min: Final = 1
auto_seconds_max: Final = 366 * 86_400
auto_retry_seconds: Final = 60.0
save_retry_seconds: Final = 2.0
leave_seconds: Final = 2.0
exit_seconds: Final = 30.0

# Python looks for garbage in cycles after so many new objects, and for old garbage every so many times.
collect_objects: Final = (50_000, 20, 20)
past_versions_max: Final = 10_000  # shown in .monofs/versions
