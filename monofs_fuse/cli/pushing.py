"""`monofs push`, `monofs save`: images and trees go out."""

from __future__ import annotations

import errno
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, Place, held, opened
from monofs_fuse.cli.images import present
from store import version
from store.cid import Cid
from store.errors import NoSpace, WrongKind
from store.oci import images, reference, settings
from store.oci.errors import BadReference
from store.oci.push import Push
from store.oci.reference import Reference
from store.oci.save import save as write
from store.oci.settings import Settings
from store.progress import Skip
from store.repository import Repository


def push_options(parser: Parser) -> None:
    parser.positional("reference", "image", "where it goes, and what it is called there", metavar="REF")
    parser.positional("tree", "target", "what is sent; without it, the image REF", metavar="CID|NAME[/path]", many="?")
    parser.add_argument("--since", metavar="OLD", help="send what changed since this image or tree, as one layer on it")
    parser.add_argument("-m", "--message", metavar="TEXT", default="", help="what the new layer's history says")
    parser.json()


def push(args: Args) -> int:
    """Send an image to a registry; prints the digest of its manifest.

    push REF: the image that is called so here, see `monofs image tag`. Its layers are those it was pulled
    with, and so is its digest, if the registry has them or they can be fetched again; otherwise they are made anew.

    push REF TREE: a tree, as an image of one layer.

    push REF TREE --since OLD: what differs from OLD as one layer, on the layers of OLD if it is an image; env, command
    and so on are the image's. Layers that the registry has are not sent.

    JSON: reference, digest, layers, sent (layers that were), skipped (path and reason of what no archive can hold).

    Examples:
      monofs push localhost:5000/tools src/tools
      monofs push ghcr.io/me/app:2 agent-1 --since debian:12
      monofs image tag debian:12 localhost:5000/debian:12
      monofs push localhost:5000/debian:12

    Exit codes: 0 done; 1 an error, or done without the files named on stderr; 2 wrong usage.
    """
    if args.tree is None and (args.since or args.message):
        args.refuse("--since and --message need a tree")
    known = settings.load(settings.path())
    to = reference.parse(args.reference, known.default)
    if args.tree is not None and to.digest:
        args.refuse("nobody can know the digest of an image that is made now; name a tag")
    with opened(args) as repository:
        if args.tree is None:
            done = Push(repository, known, to).image(present(repository, to).image)
        else:
            with ExitStack() as stack:
                new = _tree(repository, stack.enter_context(held(repository, args.tree)), args.tree)
                old = _Old(None, None) if args.since is None else _old(repository, known, args.since, stack)
                text = args.message or f"monofs push {args.tree}"
                done = Push(repository, known, to).tree(new, old.tree, old.image, text)
    output.skips(done.skipped)
    if args.json:
        skipped = [{"path": output.text(path), "reason": reason} for path, reason in done.skipped]
        output.document({"reference": to.key, **done._asdict(), "skipped": skipped})
    else:
        output.line(done.digest)
    return 1 if done.skipped else 0


class _Old(NamedTuple):
    tree: Cid | None
    image: Cid | None


def _old(repository: Repository, known: Settings, text: str, stack: ExitStack) -> _Old:
    if repository.name(text) is None:
        try:
            record = images.find(repository.store, reference.parse(text, known.default))
        except BadReference:
            record = None
        if record is not None:
            return _Old(images.load(repository.cache, record.image).tree, record.image)
    return _Old(_tree(repository, stack.enter_context(held(repository, text)), text), None)


def _tree(repository: Repository, place: Place, text: str) -> Cid:
    """Return the tree at a place, which `text` means; a directory inside one is stored as a tree."""
    if not place.entry.is_dir:
        raise WrongKind(f"'{text}' is a {place.entry.kind}, not a directory")
    if not place.target.path.strip(b"/."):
        return place.target.tree
    batch, _ = repository.batch("push")
    cid = version.put_tree(batch, version.subtree(batch, place.tree, place.target.path))
    batch.flush()  # held until this process ends
    return cid


# save


def save_options(parser: Parser) -> None:
    parser.positional("file", "file", "the archive, or - for stdout", metavar="FILE|-")
    parser.positional("references", "image", "an image in the store", metavar="REF", many="+")


def save(args: Args) -> int:
    """Write images to an archive: an OCI layout that `docker load`, podman and skopeo read as well.

    Layers are made anew of the trees, so digests are others than the registry's; the trees are the same.

    Examples:
      monofs save image.tar debian:12
      monofs save - debian:12 alpine | ssh host docker load

    Exit codes: 0 done; 1 an error, or done without the files named on stderr; 2 wrong usage.
    """
    known = settings.load(settings.path())
    wanted = list(dict.fromkeys(reference.parse(text, known.default) for text in args.references))
    with opened(args) as repository:
        for each in wanted:
            present(repository, each)
        skipped = _written(repository, wanted, args.file)
    output.skips(skipped)
    return 1 if skipped else 0


def _written(repository: Repository, wanted: list[Reference], file: str) -> tuple[Skip, ...]:
    """Write the archive; under its name only once it is whole."""
    if file == "-":
        return write(repository, wanted, sys.stdout.buffer)
    path = Path(file)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as out:
            skipped = write(repository, wanted, out)
        partial.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("no space left for the archive") from None
        raise
    finally:
        partial.unlink(missing_ok=True)
    return skipped
