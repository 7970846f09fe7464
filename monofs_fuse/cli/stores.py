"""`monofs store`: what is done with whole stores: copied, made smaller, freed of the layers over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from monofs_fuse import config, progress
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, opened
from store import backends, copying, layered_store, place
from store.errors import Held, NotFound
from store.layered_store import Top
from store.repository import Repository


def store_options(parser: Parser) -> None:
    parser.add_argument("action", choices=list(_ACTIONS), help="what to do")
    parser.positional("paths", "directory", "for copy: SRC DST; for forget-layer: the layer", metavar="DIR", many="*")
    parser.add_argument("--backend", choices=place.BACKENDS, help="of a DST that is made; else that of SRC")
    parser.add_argument("--force", action="store_true", help="forget a layer that still exists: it is lost then")
    parser.json()


def store(args: Args) -> int:
    """Copy a store, make it smaller, or free it of the layers over it.

    copy SRC DST: give the store DST every name, pin and image of SRC, with all that they hold; of what is mounted, the
    last commit. DST is made if it is not there, of either kind. A name appears in DST when it is whole; a copy that was
    cut off is done again and goes on where it was. A layer is copied together with what it borrows.

    compact: give back to the disk what deleted blocks left: gc frees room inside the database, but its file never
    shrinks by itself. With lmdb nobody may use the store meanwhile, and as much room is needed as the blocks take.

    layers: list the stores that were made with --base over this one: path, number of blocks held for
    them, and whether they are still there.

    forget-layer DIR: let go of all that is held for a layer (its path or its id) that was deleted. gc frees it then.

    JSON: copy has names, pins, others, blocks (new ones); compact has bytes_before, bytes_after; layers is a list
    with id, path, blocks, exists; forget-layer has blocks.

    Examples:
      monofs store copy ~/.local/share/monofs /mnt/backup --backend flatfs
      monofs store compact
      monofs store layers
      monofs store forget-layer /home/old/store
    """
    count, run = _ACTIONS[args.action]
    if len(args.paths) != count:
        args.refuse(f"'{args.action}' takes {count} directories, not {len(args.paths)}" if count else "too many words")
    if args.backend and args.action != "copy":
        args.refuse("--backend goes with copy")
    if args.force and args.action != "forget-layer":
        args.refuse("--force goes with forget-layer")
    return run(args)


def _copy(args: Args) -> int:
    source_path, target_path = (config.store_path(path) for path in args.paths)
    if source_path.resolve() == target_path.resolve():
        args.refuse("SRC and DST are the same store")
    source = Repository.open(source_path, create=False)
    try:
        with progress.watched() as watcher:
            target = _target(target_path, source, args.backend)
            try:
                done = copying.copy(source, target, watcher)
            finally:
                target.close()
    finally:
        source.close()
    if args.json:
        output.document(done._asdict())
    else:
        others = f", {done.others} others" if done.others else ""
        output.line(f"copied {done.names} names, {done.pins} pins{others}, {done.blocks} new blocks to {target_path}")
    return 0


def _target(path: Path, source: Repository, backend: str | None) -> Repository:
    if place.exists(place.config_path(path)):
        return Repository.open(path, create=False)
    chosen = backend or place.read_config(source.path).backend
    return Repository.init(path, source.store.algorithm, backend=chosen)


def _compact(args: Args) -> int:
    with opened(args) as repository:
        path, before = repository.path, repository.store.usage().file
    backends.compact(path)
    with opened(args) as repository:
        after = repository.store.usage().file
    if args.json:
        output.document({"bytes_before": before, "bytes_after": after})
    else:
        output.line(f"{output.human(before)} before, {output.human(after)} now")
    return 0


def _layers(args: Args) -> int:
    with opened(args) as repository:
        tops = layered_store.tops(repository.store)
    found = [(top, is_there(top)) for top in tops]
    if args.json:
        output.document(
            [{"id": top.identity, "path": top.path, "blocks": top.blocks, "exists": there} for top, there in found]
        )
    else:
        output.table([[top.path, str(top.blocks), "there" if there else "gone", top.identity] for top, there in found])
    return 0


def _forget_layer(args: Args) -> int:
    with opened(args) as repository:
        top = _top(repository, args.paths[0])
        if is_there(top) and not args.force:
            raise Held(
                f"the layer {top.path} is still there and could not be used any more; delete it first, "
                "or say --force to lose it"
            )
        blocks = layered_store.forget(repository.store, top.identity)
    if args.json:
        output.document({"blocks": blocks})
    else:
        output.line(f"let go of {blocks} blocks; 'monofs gc' frees what nothing else needs")
    return 0


def _top(repository: Repository, text: str) -> Top:
    for top in layered_store.tops(repository.store):
        if top.identity == text or Path(top.path) in (Path(text).absolute(), Path(text).resolve()):
            return top
    raise NotFound(f"no layer '{text}' over {repository.path}; 'monofs store layers' lists them")


def is_there(top: Top) -> bool:
    """True if the layer is where it was last, and no other is in its place. Raises StoreError if nobody can tell."""
    path = Path(top.path)
    return place.exists(place.config_path(path)) and place.read_config(path).identity == top.identity


_ACTIONS: Final[dict[str, tuple[int, Callable[[Any], int]]]] = {
    "copy": (2, _copy),
    "compact": (0, _compact),
    "layers": (0, _layers),
    "forget-layer": (1, _forget_layer),
}
