"""Every bound on images by name: what registries and archives say is hostile until it is checked."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# References, as Docker has them.
repository_bytes_max: Final = 255
reference_bytes_max: Final = 1024
record_key_bytes_max: Final = 500  # LMDB's keys have 511

# Documents.
manifest_bytes_max: Final = 4 * MIB
config_bytes_max: Final = 8 * MIB
index_entries_max: Final = 1000
index_depth_max: Final = 3  # indexes in indexes
index_fetches_max: Final = 20
layers_max: Final = 500
history_max: Final = 2000
ports_max: Final = 1000  # that an image exposes; a range is one

# Layers.
blob_bytes_max: Final = 256 * GIB
layer_bytes_max: Final = 1024 * GIB  # decompressed
ratio_max: Final = 200  # decompressed to compressed, beyond the first `ratio_free_bytes`
ratio_free_bytes: Final = 256 * MIB
layer_entries_max: Final = 1_000_000
zstd_window_bytes_max: Final = 128 * MIB
feed_bytes: Final = 256 * KIB  # decompressed at a time
path_bytes_max: Final = 8 * KIB
depth_max: Final = 1024  # names in a path
made_up_bytes_max: Final = 128 * MIB  # in the paths of directories that a layer does not describe
link_steps_max: Final = 20_000_000  # names that the links of one layer lead over, all in all
symlinks_max: Final = 40  # followed on the way to one file, as Linux does
tar_extra_bytes_max: Final = 1 * MIB  # a PAX header or GNU's long name
tar_extras_max: Final = 8  # of these before one entry
sparse_segments_max: Final = 100_000
padding_bytes_max: Final = 64 * MIB  # after the end of an archive

# Archives of images.
archive_entries_max: Final = 10_000
archive_documents_max: Final = 64

# Registries.
parallel_layers: Final = 3
connect_seconds: Final = 20.0
read_seconds: Final = 60.0
tries_max: Final = 6
refusals_max: Final = 2  # tried again where nobody listens
back_off_seconds: Final = 0.25  # doubles
back_off_seconds_max: Final = 20.0
redirects_max: Final = 5
answer_bytes_max: Final = 1 * MIB  # of a token or an error
token_bytes_max: Final = 64 * KIB
token_seconds_default: Final = 60
token_seconds_max: Final = 86400
upload_bytes: Final = 8 * MIB
settings_bytes_max: Final = 1 * MIB
helper_seconds: Final = 60.0
password_bytes_max: Final = 16 * KIB  # tokens are long
