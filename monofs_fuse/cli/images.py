"""`monofs images`, `monofs image`, `monofs load`: the images in a store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from monofs_fuse.cli import bars, output
from monofs_fuse.cli.arguments import Args, Parser, opened, reading
from monofs_fuse.cli.keep import collected, freed
from monofs_fuse.cli.pulling import described, layer_history, warn
from store import version
from store.blocks import Change
from store.errors import NotFound
from store.oci import archive, images, media, pull, reference, settings
from store.oci.errors import BadImage
from store.oci.images import Image, Record
from store.oci.reference import Reference
from store.repository import Repository
from store.revision import moment

# images


def images_options(parser: Parser) -> None:
    parser.json()


def images_(args: Args) -> int:
    """List the images in the store.

    A line for each reference: the reference in full, the digest of the manifest, the platform, the size of the
    layers in a registry, and the CID of the tree.

    JSON is a list of: reference, digest, origin (what the registry has for the reference; of an index, where there is
    one), platform, size, layers, tree, image (CIDs), time, time_ns (when it was pulled).

    Examples:
      monofs images
      monofs images --json | jq -r '.[].reference'
    """
    with reading(args) as repository:
        rows = [_described(repository, key, record) for key, record in images.every(repository.store)]
    if args.json:
        output.document(rows)
    else:
        output.table(
            [[r["reference"], r["digest"][7:19], r["platform"], output.human(r["size"]), r["tree"]] for r in rows]
        )
    return 0


def _described(repository: Repository, key: str, record: Record) -> dict[str, Any]:
    image = images.load(repository.cache, record.image)
    config = image.read_config(repository.cache)
    return {
        "reference": key,
        "digest": image.digest,
        "origin": record.origin or None,
        "platform": str(config.platform),
        "size": image.size,
        "layers": len(image.layers),
        "tree": str(image.tree),
        "image": str(record.image),
        "time": moment(record.time),
        "time_ns": record.time,
    }


# image


def image_options(parser: Parser) -> None:
    parser.add_argument("action", choices=list(_ACTIONS), help="what to do")
    parser.positional(
        "references", "image", "an image in the store; for tag: the image, and one more name", metavar="REF", many="*"
    )
    parser.json()


def image(args: Args) -> int:
    """Look at an image, or change under which references images are kept.

    inspect REF: print all that is known, as JSON: also how it wants to be run (env, entrypoint, cmd, user,
    workdir, ports, volumes, labels, stop_signal, health).

    history REF: list how it came to be, the newest step first: when, how many bytes in a registry, the CID of the tree
    of each layer with all below it, and the command. `monofs diff` shows what a layer changed.

    rm REF...: forget references; what no other needs is freed.

    tag REF NEW: one more reference for an image. Nothing is stored for it.

    prune: free layers that no image has, as interrupted pulls leave them.

    JSON: history is a list with created, created_by, tree, diff_id, digest, size. inspect is always JSON.

    Examples:
      monofs image inspect debian:12
      monofs image history debian:12
      monofs image tag debian:12 localhost:5000/base:1
      monofs image rm debian:12
      monofs image prune
    """
    (low, high), run = _ACTIONS[args.action]
    if not low <= len(args.references) <= high:
        wanted = f"{low} references" if low == high else f"at least {low}"
        args.refuse(f"'{args.action}' takes {wanted}, not {len(args.references)}")
    with opened(args) as repository:
        return run(args, repository, [_parsed(text) for text in args.references])


def _parsed(text: str) -> Reference:
    return reference.parse(text, settings.load(settings.path()).default)


def present(repository: Repository, wanted: Reference) -> Record:
    """Return what a reference stands for. Raises NotFound."""
    found = images.find(repository.store, wanted)
    if found is None:
        raise NotFound(f"no image '{wanted.key}' in {repository.path}; 'monofs images' lists them")
    return found


def _inspect(args: Args, repository: Repository, wanted: list[Reference]) -> int:
    record = present(repository, wanted[0])
    image = images.load(repository.cache, record.image)
    config = image.read_config(repository.cache)
    output.document(
        _described(repository, wanted[0].key, record)
        | {
            "media_type": image.media_type,
            "created": config.created or None,
            "author": config.author or None,
            "env": list(config.env),
            "entrypoint": list(config.entrypoint),
            "cmd": list(config.cmd),
            "user": config.user,
            "workdir": config.workdir,
            "ports": list(config.ports),
            "volumes": list(config.volumes),
            "labels": dict(config.labels),
            "stop_signal": config.stop_signal,
            "health": None if config.health is None else config.health._asdict(),
            "layers": [
                {"tree": str(row.tree), **{k: getattr(row, k) for k in ("diff_id", "digest", "media_type", "size")}}
                for row in image.layers
            ],
            "manifest": _json(repository, image, "manifest"),
            "config": _json(repository, image, "config"),
        }
    )
    return 0


def _json(repository: Repository, image: Image, which: str) -> Any:
    file = image.manifest if which == "manifest" else image.config
    return json.loads(file.read_at(repository.cache, 0, file.size))


def _history(args: Args, repository: Repository, wanted: list[Reference]) -> int:
    image = images.load(repository.cache, present(repository, wanted[0]).image)
    rows = layer_history(image, image.read_config(repository.cache))
    if args.json:
        output.document(rows)
        return 0
    for row in rows:
        created, text = (_plain(row[key]) for key in ("created", "created_by"))
        output.line(f"{created[:19]:<19}  {output.human(row['size']):>5}  {row['tree'] or '-':<59}  {text}")
    return 0


def _plain(text: str) -> str:
    """What somebody else wrote, on one line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _rm(args: Args, repository: Repository, wanted: list[Reference]) -> int:
    changes = []
    for each in dict.fromkeys(wanted):
        present(repository, each)
        changes.append(images.changed(repository.store, each, None))
    repository.store.apply(Change(roots=tuple(changes)))
    return _free(repository)


def _prune(args: Args, repository: Repository, wanted: list[Reference]) -> int:
    return _free(repository)


def _free(repository: Repository) -> int:
    with images.at_work(repository.run_directory, alone=True) as may:
        if may:
            images.prune(repository.store, repository.cache)
        else:
            output.note("another process is fetching an image: 'monofs image prune' later frees layers nobody has")
    output.note(freed(collected(repository)))
    return 0


def _tag(args: Args, repository: Repository, wanted: list[Reference]) -> int:
    record = present(repository, wanted[0])
    new = record._replace(time=version.now())
    repository.store.apply(Change(roots=(images.changed(repository.store, wanted[1], new),)))
    return 0


_Run = Callable[[Args, Repository, list[Reference]], int]
_ACTIONS: Final[dict[str, tuple[tuple[int, int], _Run]]] = {
    "inspect": ((1, 1), _inspect),
    "history": ((1, 1), _history),
    "rm": ((1, 1 << 20), _rm),
    "tag": ((2, 2), _tag),
    "prune": ((0, 0), _prune),
}


# load


def load_options(parser: Parser) -> None:
    parser.positional("file", "file", "an archive, an OCI layout's directory, or - for stdin", metavar="FILE|DIR|-")
    parser.add_argument(
        "--as", dest="reference", metavar="REF", help="call it so; needed where the archive says no name"
    )
    parser.add_argument("--platform", metavar="OS/ARCH", help="another platform than that of this machine")
    parser.json()


def load(args: Args) -> int:
    """Take images out of a file: what `docker save` writes, or an OCI layout; prints the CID of each one's tree.

    The archive may be compressed. Images are kept under the names that it has for them. All that was said
    of `monofs pull` is so here, too.

    JSON is a list of: reference, digest, tree, image (CIDs), platform, layers, new_layers, size.

    Examples:
      docker save debian:12 | monofs load -
      monofs load image.tar --as localhost/image:1
      monofs load layout-directory --as localhost/image:1
    """
    known = settings.load(settings.path())
    named = None if args.reference is None else reference.parse(args.reference, known.default)
    platform = media.host() if args.platform is None else media.parse_platform(args.platform)
    rows: list[dict[str, Any]] = []
    with ExitStack() as cleanup:
        path = None if args.file == "-" else Path(args.file)
        source = archive.opened(path, sys.stdin.buffer, cleanup)
        if named is not None and len(source.images) != 1:
            raise BadImage(f"--as is for one image, and there are {len(source.images)}")
        wanted = [(found, _names(found, named, known.default)) for found in source.images]
        repository = cleanup.enter_context(opened(args, create=True))
        for found, names in wanted:
            resolved = pull.resolve(source, found.selector, platform, strict=args.platform is not None)
            warn(resolved.config, platform)
            with bars.layers() as watcher:
                got = pull.pull(repository, source, resolved, names, watcher)
            rows += [described(name.key, got) for name in names]
    if args.json:
        output.document(rows)
    else:
        for tree in dict.fromkeys(row["tree"] for row in rows):
            output.line(tree)
    return 0


def _names(found: archive.Found, named: Reference | None, default: str) -> list[Reference]:
    if named is not None:
        return [named]
    names = [made for name in found.names if (made := archive.reference_of(name, default)) is not None]
    if not names:
        raise BadImage("the archive does not say what its image is called; say it with --as REF")
    return list(dict.fromkeys(names))
