"""`monofs pull`, `login`, `logout`: images come from registries."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterable
from typing import Any

from monofs_fuse.cli import bars, output
from monofs_fuse.cli.arguments import Args, Parser, opened
from store import version
from store.errors import NameTaken, RootMoved
from store.names import Name
from store.oci import credentials, limits, media, pull, reference, registry, settings
from store.oci.config import Config
from store.oci.credentials import Credential
from store.oci.errors import Denied, NotInRegistry
from store.oci.images import Image
from store.oci.media import Platform
from store.oci.pull import Pulled, Resolved, Source
from store.oci.reference import Reference
from store.oci.settings import Settings
from store.repository import Repository
from store.version import Version

_MESSAGE_MAX = 1000  # of what a configuration says about how a layer was made


def pull_options(parser: Parser) -> None:
    parser.positional("reference", "image", "the image, as Docker calls it", metavar="REF")
    parser.add_argument("--name", metavar="NAME", help="also give its tree this name")
    parser.add_argument("--update", action="store_true", help="the name may exist: this is its next version then")
    parser.add_argument("--platform", metavar="OS/ARCH", help="another platform than that of this machine")
    parser.add_argument("--all-layers", action="store_true", help="with --name: a version for each layer")
    parser.json()


def pull_(args: Args) -> int:
    """Fetch an image from a registry; prints the CID of its tree.

    REF is [docker://][HOST[:PORT]/]NAME[:TAG][@DIGEST]: debian is docker.io/library/debian:latest. It is kept under
    its reference, which stands for the tree wherever a name would: `monofs ls debian:12/etc`, `monofs mount debian:12
    DIR`. With --name the tree also becomes a version of that name.

    Layers are fetched side by side and go straight into the store, verified; a layer that is here, of whatever image,
    is not fetched. If it is interrupted nothing is visible, and doing it again goes on after the layers that were done.
    No root is needed.

    Registries are described in ~/.config/monofs/registries.toml (or MONOFS_REGISTRIES): default = "HOST", and for each
    [registry."HOST"] mirrors, ca (a file) and insecure (true). Who you are is looked up in ~/.docker/config.json.

    JSON: reference, digest (of the manifest), tree, image (CIDs), name, platform, layers, new_layers, size.

    Examples:
      monofs pull debian:12
      monofs pull ghcr.io/owner/app@sha256:... --platform linux/arm64
      cid=$(monofs pull quay.io/a/b:t --name base)
    """
    if args.name is None and (args.update or args.all_layers):
        args.refuse("--update and --all-layers need a --name")
    known = settings.load(settings.path())
    wanted = reference.parse(args.reference, known.default)
    platform = media.host() if args.platform is None else media.parse_platform(args.platform)
    with opened(args, create=True) as repository:
        old = _present(repository, args)
        source, found = looked_up(wanted, known, platform, strict=args.platform is not None)
        with bars.layers() as watcher:
            got = pull.pull(repository, source, found, [wanted], watcher)
        if args.name is not None:
            name_it(repository, args.name, old, got, wanted, all_layers=args.all_layers)
    if args.json:
        output.document(described(wanted.key, got) | {"name": args.name})
    else:
        output.line(str(got.image.tree))
    return 0


def looked_up(
    wanted: Reference, known: Settings, platform: Platform, *, strict: bool = False
) -> tuple[Source, Resolved]:
    """Return where an image is, and what it is there. Nothing is stored yet. Raises BadImage, RegistryError."""
    source = registry.remote(wanted, known)
    try:
        found = pull.resolve(source, wanted.selector, platform, strict=strict)
    except NotInRegistry as error:
        raise NotInRegistry(f"no image '{wanted.key}': {error}") from None
    warn(found.config, platform)
    return source, found


def warn(config: Config, wanted: Platform) -> None:
    if config.platform.os and media.fitness(wanted, config.platform) is None:
        output.note(f"the image is for {config.platform}, not {wanted}; there is no other")


def described(key: str, got: Pulled) -> dict[str, Any]:
    return {
        "reference": key,
        "digest": got.image.digest,
        "tree": str(got.image.tree),
        "image": str(got.cid),
        "platform": str(got.config.platform),
        "layers": len(got.image.layers),
        "new_layers": got.new_layers,
        "size": got.image.size,
    }


def _present(repository: Repository, args: Args) -> Name | None:
    """Return what the name stands for now. Raises NameTaken, BadName, Held."""
    if args.name is None:
        return None
    old = repository.name(args.name)
    if old is not None and not args.update:
        raise NameTaken(f"the name '{args.name}' is taken; with --update the image is its next version")
    if old is None:
        repository.check_free(args.name)
        return None
    repository.check_unheld(args.name)
    return old


def name_it(
    repository: Repository, name: str, old: Name | None, got: Pulled, wanted: Reference, *, all_layers: bool
) -> None:
    """Make the image's tree a version of `name`, all at once; with `all_layers` one for every layer."""
    if old is not None and old.head is not None:  # what a mount that died had saved gets a version of its own
        batch, stage = repository.batch("settle")
        old = Name(repository.publish(name, old.head, batch, stage, message="saved by a mount", old=old))
    if old is not None and not all_layers and repository.version(old).tree == got.image.tree:
        output.note(f"'{name}' is this tree already; no version was added")
        return
    batch, stage = repository.batch("pull")
    previous = old.version if old is not None else None
    steps = list(_layers(got)) if all_layers else [(got.image.tree, f"pulled {wanted.key}")]
    for tree, message in steps or [(got.image.tree, f"pulled {wanted.key}")]:
        before = frozenset(() if previous is None else (previous,))
        made = Version(tree, before, version.now(), "", message)
        previous = version.put_version(batch, made)
    assert previous is not None
    try:
        repository.set_name(name, old, Name(previous), batch, stage)
    except RootMoved:
        raise RootMoved(f"'{name}' has just been changed by another process; do it again") from None


def _layers(got: Pulled) -> Iterable[tuple[Any, str]]:
    """Yield the tree of each layer, and how it was made."""
    texts = [entry.created_by for entry in got.config.history if not entry.empty]
    texts += [""] * (len(got.image.layers) - len(texts))
    for layer, text in zip(got.image.layers, texts):
        yield layer.tree, (text or f"layer {layer.diff_id}")[:_MESSAGE_MAX]


def layer_history(image: Image, config: Config) -> list[dict[str, Any]]:
    """Return how an image came to be, the newest step first, with the layer of each that has one."""
    layers = iter(image.layers)
    rows: list[dict[str, Any]] = []
    for entry in config.history:
        layer = None if entry.empty else next(layers, None)
        rows.append(_row(entry.created, entry.created_by or entry.comment, layer))
    rows += [_row("", "", layer) for layer in layers]  # which the history does not mention
    return rows[::-1]


def _row(created: str, text: str, layer: Any) -> dict[str, Any]:
    return {
        "created": created,
        "created_by": text,
        "tree": layer and str(layer.tree),
        "diff_id": layer and layer.diff_id,
        "digest": layer and layer.digest,
        "size": layer.size if layer else 0,
    }


# login, logout


def login_options(parser: Parser) -> None:
    parser.positional("registry", "word", "the registry: docker.io if none is named", metavar="HOST[:PORT]", many="?")
    parser.add_argument("-u", "--username", metavar="USER", help="asked for if it is not given")
    parser.add_argument("--password-stdin", action="store_true", help="take the password from stdin")


def login(args: Args) -> int:
    """Tell who you are to a registry, and remember it.

    It is tried first. Then it is kept where Docker keeps it: with the credential helper that ~/.docker/config.json
    names for the registry, else in that file itself. DOCKER_CONFIG names another directory.

    Examples:
      monofs login ghcr.io -u me
      pass show quay | monofs login quay.io -u me --password-stdin
    """
    known = settings.load(settings.path())
    host = reference.check_registry(args.registry or known.default)
    if not args.username and args.password_stdin:
        args.refuse("--password-stdin needs a --username")
    user = args.username or _asked(args, f"User for {host}: ", secret=False)
    password = _from_stdin(args) if args.password_stdin else _asked(args, f"Password for {user}: ", secret=True)
    if not user or not password or not (user + password).isprintable():
        args.refuse("a user and a password are needed, each one line of text")
    if ":" in user:
        args.refuse("a user's name has no colon: a registry would take what follows for the password")
    credential = Credential(user, password)
    try:
        registry.Registry(registry.wire(known.endpoint(host), credential), "").ping()
    except Denied as error:
        raise Denied(f"{host} does not accept them: {error}") from None
    output.note(f"kept in {credentials.put(credentials.path(), host, credential)}")
    return 0


def _asked(args: Args, prompt: str, *, secret: bool) -> str:
    """Ask on the terminal."""
    if not sys.stdin.isatty():
        args.refuse("there is no terminal to ask on; use --username and --password-stdin")
    try:
        if secret:
            return getpass.getpass(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)  # stdout is for answers
        return input()
    except EOFError:
        return ""


def _from_stdin(args: Args) -> str:
    line = sys.stdin.buffer.readline(limits.password_bytes_max + 2).rstrip(b"\r\n")
    if len(line) > limits.password_bytes_max:
        args.refuse(f"a password of over {limits.password_bytes_max} bytes is none")
    try:
        return line.decode()
    except UnicodeDecodeError:
        return ""


def logout_options(parser: Parser) -> None:
    parser.positional("registry", "word", "the registry: docker.io if none is named", metavar="HOST[:PORT]", many="?")


def logout(args: Args) -> int:
    """Forget who you are to a registry.

    Examples:
      monofs logout ghcr.io
    """
    known = settings.load(settings.path())
    host = reference.check_registry(args.registry or known.default)
    if not credentials.remove(credentials.path(), host):
        output.note(f"nothing was known for {host}")
    return 0
