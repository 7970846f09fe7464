"""The store as a whole: init, store-info, gc."""

from __future__ import annotations

from typing import Any

from monofs_fuse import config
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, opened
from monofs_fuse.cli.keep import collected, freed
from store import place, version
from store.cid import ALGORITHMS, BLAKE3, Cid
from store.errors import StoreError
from store.layered_store import LayeredStore
from store.oci import images
from store.repository import Repository

# init


def init_options(parser: Parser) -> None:
    parser.add_argument(
        "--hash",
        choices=list(ALGORITHMS),
        help=f"what CIDs are made with (default: {BLAKE3.name}, or that of the base)",
    )
    parser.add_argument(
        "--backend",
        choices=place.BACKENDS,
        default=place.BACKENDS[0],
        help=f"lmdb: one database; flatfs: a file for each block (default: {place.BACKENDS[0]})",
    )
    parser.add_argument(
        "--base", metavar="STORE", action="append", default=[], help="a store to lean on; may be given again"
    )
    parser.kinds["base"] = "directory"


def init(args: Args) -> int:
    """Make an empty store.

    `monofs import` does this by itself. The directory must be empty or not there yet; the
    choices are for good, but 'monofs store copy' makes a store of another kind with the same trees in it.

    With --base the store is a layer over others: what a base has already is not stored again, its trees can be
    mounted by their CIDs and forked, and nothing but the note of what is needed from it is ever written to it. The base
    keeps that, whatever is forgotten in it, until the layer lets go of it; 'monofs store layers' lists these notes.

    Examples:
      monofs init
      monofs init --hash sha2-256 --store /srv/trees
      monofs init --backend flatfs
      monofs init --base /srv/trees --store ~/mine
    """
    path = config.store_path(args.store)
    bases = tuple(config.store_path(base) for base in args.base)
    algorithm = ALGORITHMS[args.hash] if args.hash else None
    made = Repository.init(path, algorithm, backend=args.backend, bases=bases)
    over = f" over {', '.join(map(str, bases))}" if bases else ""
    output.note(f"made a store at {path} with {made.store.algorithm.name}{over}")
    made.close()
    return 0


# store-info


def store_info_options(parser: Parser) -> None:
    parser.json()


def store_info(args: Args) -> int:
    """Show where the store is, what it holds and what that takes.

    Logical bytes are the sizes of all files in all named and pinned trees; plain bytes are the
    distinct blocks these need; stored bytes are those blocks compressed; file bytes are what the disk gives
    for them. Borrowed blocks are those that this store needs and a base has. JSON has the same keys; bases is a list.

    Examples:
      monofs store-info
      monofs store-info --json | jq .stored_bytes
    """
    with opened(args) as repository:
        doc = _facts(repository)
    if args.json:
        output.document(doc)
        return 0
    width = max(map(len, doc))
    for key, value in doc.items():
        if key == "bases":
            value = ", ".join(value) or "-"
        elif key.endswith("_bytes"):
            value = f"{value} ({output.human(value)})"
        output.line(f"{key.replace('_', ' '):>{width}}: {value}")
    return 0


def _facts(repository: Repository) -> dict[str, Any]:
    made = place.read_config(repository.path)
    usage = repository.store.usage()
    names = [name for _, name in repository.names()]
    pins = repository.pins()
    trees = [images.load(repository.cache, record.image).tree for _, record in images.every(repository.store)]
    logical = sum(_size(repository, cid) for cid in [*(name.head or name.version for name in names), *pins, *trees])
    return {
        "path": str(repository.path),
        "format": made.format,
        "backend": made.backend,
        "bases": list(made.bases),
        "hash": made.algorithm.name,
        "names": len(names),
        "pins": len(pins),
        "images": len(trees),
        "blocks": usage.blocks,
        "blocks_borrowed": len(repository.store.borrowed()) if isinstance(repository.store, LayeredStore) else 0,
        "blocks_to_free": usage.waiting,
        "logical_bytes": logical,
        "plain_bytes": usage.plain,
        "stored_bytes": usage.stored,
        "file_bytes": usage.file,
        "deduplication": round(logical / usage.plain, 2) if usage.plain else 1.0,
        "compression": round(usage.plain / usage.stored, 2) if usage.stored else 1.0,
    }


def _size(repository: Repository, cid: Cid) -> int:
    """Return the sum of all file sizes in a tree; 0 for one that cannot be read: `check` tells about that."""
    try:
        return version.load_tree(repository.cache, cid).root.total[1]
    except StoreError:
        return 0


# gc


def gc_options(parser: Parser) -> None:
    parser.json()


def gc(args: Args) -> int:
    """Delete the blocks that no name, no pin and no mount needs.

    `monofs forget` does this by itself; what is left for gc is what an interrupted import, a killed
    mount or a mount's own commits left behind. It may run beside imports and mounts, and be
    interrupted at any time. JSON: freed_blocks, freed_bytes.

    Examples:
      monofs gc
    """
    with opened(args) as repository:
        total = collected(repository)
    if args.json:
        output.document({"freed_blocks": total.blocks, "freed_bytes": total.bytes})
    else:
        output.line(freed(total))
    return 0
