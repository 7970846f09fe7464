"""Every bound of the store, by name. Those marked FORMAT are part of format v1 and never change."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# FORMAT: one limit for a block, raw bytes and nodes alike.
block_bytes_max: Final = 1 * MIB

# FORMAT: FastCDC cuts.
chunk_bytes_min: Final = 16 * KIB
chunk_bytes_avg: Final = 64 * KIB
chunk_bytes_max: Final = 256 * KIB

# FORMAT: a run of at least this many zero bytes is a hole.
hole_bytes_min: Final = 64 * KIB

# FORMAT: file content up to this size lies in the directory entry itself.
inline_bytes_max: Final = 128

# FORMAT: node boundaries. A node ends after an item whose label says so (1 in 64),
# but not before it has `node_items_min`; it ends anyway once its items reach `node_bytes_soft`.
node_items_min: Final = 32
node_boundary_mask: Final = 63
node_bytes_soft: Final = 64 * KIB

# FORMAT: extended attributes up to this encoded size lie in the entry, larger sets behind a CID.
xattr_bytes_inline: Final = 512
xattr_bytes_max: Final = 512 * KIB
xattr_value_bytes_max: Final = 64 * KIB

# FORMAT: versions that one version may come right after.
previous_max: Final = 1000

name_bytes_max: Final = 255
target_bytes_max: Final = 4095
link_path_bytes_max: Final = 64 * KIB
depth_max: Final = 8192
file_bytes_max: Final = (1 << 63) - 1

root_name_bytes_max: Final = 200

history_versions_max: Final = 1_000_000  # looked at to answer one question
merge_rounds_max: Final = 32  # merges of best common ancestors, to get one base
marks_per_edit: Final = 4096  # tombstones made or taken away at a time
rename_names_max: Final = 200_000  # that came and went, among which renames are looked for
text_bytes_max: Final = 4 * MIB  # of a file that is compared line by line
text_pairs_max: Final = 4_000_000  # of equal lines; a file of one line, again and again, has many

# A batch is stored (staged) once it holds this much, so that memory stays bounded.
batch_bytes_max: Final = 24 * MIB
# Each block makes up to two pages of the database dirty, which stay in memory for as long as the transaction lasts
# (96 MiB then). Fewer blocks would be more transactions, each of which writes pages that the last one wrote.
# More than `dirty_names_soft` of a mount: a commit of as many small files is one transaction.
batch_blocks_max: Final = 12_288
stage_records_per_step: Final = 16  # let go of in one transaction
batch_nodes_max: Final = 64  # kept decoded, too
block_overhead_bytes: Final = 512  # what a block in a batch takes besides its bytes

cache_chunk_bytes: Final = 48 * MIB
cache_node_count: Final = 2048
cache_node_bytes: Final = 16 * KIB  # a node counts once more for each

map_bytes_start: Final = 256 * MIB
map_bytes_step_max: Final = 64 * GIB
map_growths_max: Final = 48
disk_full_bytes: Final = 256 * KIB  # a disk with less room than this is full
readers_max: Final = 1022

borrow_records_per_step: Final = 4096  # written in one transaction of a base
borrow_tries_max: Final = 16
bases_max: Final = 8  # stores that one leans on, and so on down

copy_tries_max: Final = 8
hold_tries_max: Final = 16  # to hold a tree that others let go of

sync_threads_max: Final = 8  # files that one process syncs at once
ledger_seconds_max: Final = 60.0  # to wait for SQLite, which only a process that skips our own locks can hold

read_bytes: Final = 1 * MIB  # of a file on disk at a time
open_directories_max: Final = 128

gc_blocks_per_step: Final = 1024
gc_counts_max: Final = 65_536  # held before they are written
release_blocks_max: Final = 64  # nodes that let go of their links in the transaction that leaves them without use

check_blocks_per_step: Final = 32  # read by one thread at a time
check_bytes_per_save: Final = 1 * GIB  # read between two bookmarks
check_places_max: Final = 8  # told for each bad block
check_counts_max: Final = 100  # told one by one
draft_extent_bytes_max: Final = 1 * MIB

calendar_seconds_min: Final = 0  # what a calendar is asked about: 1970 to 9999
calendar_seconds_max: Final = 253_402_300_799
