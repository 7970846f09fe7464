"""Images in files: OCI layouts and what `docker save` writes, and what happens if one of them lies."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from store import check, version
from store.blocks import Change, RootChange, collect
from store.errors import MonofsError
from store.oci import archive, digest, images, limits, media, pull, reference
from store.oci.archive import Opened, reference_of
from store.oci.errors import BadImage, NotInRegistry
from store.repository import Repository
from tests.oci.layouts import Layout, d, f, hard, sha, tar
from tests.oci.pulling import Quiet, loaded, of_image, pulled

BASE = tar([d("."), d("etc"), f("etc/passwd", b"root"), f("big", bytes(range(256)) * 1000), f("link")])
TOP = tar([f("etc/.wh.passwd"), hard("more", "big")])


def skopeo(*args: str | Path) -> None:
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", *map(str, args)], check=True, capture_output=True)


def layout(at: Path, **options: str) -> Layout:
    made = Layout(at)
    made.image([BASE, TOP], **options)  # type: ignore[arg-type]
    return made


def tarred(directory: Path, to: Path, form: str = "w") -> Path:
    with tarfile.open(to, form) as archive:  # type: ignore[call-overload]
        for name in sorted(os.listdir(directory)):
            archive.add(directory / name, name)
    return to


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_every_compression_is_one_image(compression: str, repository: Repository, tmp_path: Path) -> None:
    got = loaded(repository, layout(tmp_path / "image", compression=compression).path, "a")
    tree = of_image(repository, got, tmp_path / "tree")
    assert sorted(tree) == [b"", b"big", b"etc", b"link", b"more"]
    assert tree[b"big"].nlink == 2
    assert got.new_layers == 2


def test_every_form_of_archive(repository: Repository, tmp_path: Path) -> None:
    made = layout(tmp_path / "image")
    forms = [made.path, tarred(made.path, tmp_path / "oci.tar"), tarred(made.path, tmp_path / "oci.tgz", "w:gz")]
    skopeo(f"oci:{made.path}:latest", f"docker-archive:{tmp_path}/docker.tar:example.com/a/b:t")
    skopeo(f"oci:{made.path}:latest", f"oci-archive:{tmp_path}/archive.tar:example.com/a/b:t")
    forms += [tmp_path / "docker.tar", tmp_path / "archive.tar"]
    subprocess.run(["zstd", "-q", tmp_path / "docker.tar", "-o", tmp_path / "docker.zst"], check=True)
    forms.append(tmp_path / "docker.zst")
    watcher = Quiet()
    trees = {loaded(repository, form, "a", watcher=watcher).image.tree for form in forms}
    assert len(trees) == 1
    assert watcher.here == [0, 1] * 5  # they are the same layers in all of them


def test_docker_save_with_links_and_compressed_layers(repository: Repository, tmp_path: Path) -> None:
    """Old ones have layers that are symbolic links; some tools put compressed layers in."""
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [sha(BASE), sha(TOP)]}}).encode()
    rows = [{"Config": "c.json", "RepoTags": ["x:1", "x:2"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        add("manifest.json", json.dumps(rows).encode())
        add("c.json", config)
        add("real/layer.tar", gzip.compress(BASE))
        add("b/layer.tar", TOP)
        link = tarfile.TarInfo("a/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../real/layer.tar"
        archive.addfile(link)
    got = loaded(repository, tmp_path / "x.tar", "a")
    assert got.image.tree == loaded(repository, layout(tmp_path / "image").path, "b").image.tree


def test_names_in_archives() -> None:
    assert reference_of("latest", "docker.io") is None
    assert reference_of("a b", "docker.io") is None
    assert str(reference_of("x:1", "docker.io")) == "docker.io/library/x:1"
    assert str(reference_of("ghcr.io/a/b", "docker.io")) == "ghcr.io/a/b:latest"


# Records


def test_a_second_name_stores_nothing(repository: Repository, tmp_path: Path) -> None:
    made = layout(tmp_path / "image")
    first = loaded(repository, made.path, "a")
    before = repository.store.usage()
    watcher = Quiet()
    second = loaded(repository, made.path, "b", watcher=watcher)
    assert (second.cid, second.new_layers, second.new_blocks) == (first.cid, 0, 0)
    assert watcher.fetched_bytes == 0
    assert repository.store.usage().blocks == before.blocks


def test_gc_keeps_what_images_need_and_no_more(repository: Repository, tmp_path: Path) -> None:
    one, two = Layout(tmp_path / "1"), Layout(tmp_path / "2")
    one.image([BASE, TOP])
    two.image([BASE, tar([f("other", os.urandom(50_000))])])
    empty = repository.store.usage().blocks
    loaded(repository, one.path, "one")
    kept = repository.store.usage().blocks
    loaded(repository, two.path, "two")
    assert collected(repository) == 0
    store = repository.store
    store.apply(change(images.changed(store, reference.parse("two"), None)))
    assert images.prune(store, repository.cache) == 2  # its own layer, and the tree with it
    assert collected(repository) > 0
    assert store.usage().blocks == kept
    store.apply(change(images.changed(store, reference.parse("one"), None)))
    assert images.prune(store, repository.cache) == 4
    collected(repository)
    assert store.usage().blocks == empty
    assert list(store.roots()) == []


def collected(repository: Repository) -> int:
    *_, total = collect(repository.store, 1000)
    return total.blocks


def change(*roots: RootChange) -> Change:
    return Change(roots=roots)


def test_a_reference_is_a_target(repository: Repository, tmp_path: Path) -> None:
    got = loaded(repository, layout(tmp_path / "image").path, "example.com:5000/a/b:t", "debian")
    target = repository.resolve("example.com:5000/a/b:t/etc")
    assert (target.tree, target.name, target.path) == (got.image.tree, None, b"etc")
    assert repository.resolve("debian").tree == repository.resolve("docker.io/library/debian:latest/etc").tree
    batch, stage = repository.batch("t")
    repository.publish(
        "debian", version.put_tree(batch, version.Tree(version.load_tree(batch, got.image.tree).root)), batch, stage
    )
    assert repository.resolve("debian").name == "debian"  # a name comes first
    with pytest.raises(MonofsError):
        repository.resolve("fedora")


def test_how_to_run_it(repository: Repository, tmp_path: Path) -> None:
    made = layout(tmp_path / "image", config={"Env": ["A=1"], "Cmd": ["/bin/x"]})  # type: ignore[arg-type]
    got = loaded(repository, made.path, "a")
    tree, config = images.run_config(repository.store, repository.cache, reference.parse("a"))
    assert (tree, config.command(), config.environment()) == (got.image.tree, ("/bin/x",), {"A": "1"})
    with pytest.raises(MonofsError, match="monofs pull"):
        images.run_config(repository.store, repository.cache, reference.parse("b"))


# Lies


def rewritten(made: Layout, what: str, **changes: object) -> str:
    """Change a document of the image and all that lead to it; returns the digest of the manifest."""
    manifest = json.loads(blob(made, made.index["manifests"][0]["digest"]))
    if what == "manifest":
        manifest.update(changes)
    else:
        config = json.loads(blob(made, manifest["config"]["digest"]))
        config.update(changes)
        manifest["config"] = made.document(config, media.OCI_CONFIG)
    return made.document(manifest, media.OCI_MANIFEST)["digest"]  # type: ignore[no-any-return]


def blob(made: Layout, name: str) -> bytes:
    return (made.path / "blobs/sha256" / name[7:]).read_bytes()


def opened(made: Layout) -> Opened:
    return Opened(archive._Directory(made.path))


def refused(repository: Repository, made: Layout, selector: str) -> str:
    before = repository.store.root_keys()
    with pytest.raises((BadImage, NotInRegistry)) as caught:
        pulled(repository, opened(made), selector, "a")
    assert images.find(repository.store, reference.parse("a")) is None
    left = [key for key in repository.store.root_keys() if key not in before and not key.startswith(images.LAYER)]
    assert left == []  # whole layers stay, half ones do not
    return str(caught.value)


def test_bytes_that_are_not_what_was_promised(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "parallel_layers", 1)  # or the first might not be done when the second fails
    made = layout(tmp_path / "image")
    manifest = json.loads(blob(made, made.index["manifests"][0]["digest"]))
    top = manifest["layers"][1]["digest"]
    whole = blob(made, top)
    for data, why in [
        (whole[:-1], "too early|fewer bytes"),
        (whole + b"x", "more"),
        (whole[:50] + bytes([whole[50] ^ 1]) + whole[51:], "damaged|not what was promised|checksum|header"),
        (b"", "fewer|ends"),
    ]:
        (made.path / "blobs/sha256" / top[7:]).write_bytes(data)
        said = refused(repository, made, made.index["manifests"][0]["digest"])
        assert any(word in said for word in why.split("|")), said
    assert images.known_layer(repository.store, sha(TOP)) is None
    assert images.known_layer(repository.store, sha(BASE)) is not None
    (made.path / "blobs/sha256" / top[7:]).write_bytes(whole)
    watcher = Quiet()
    loaded(repository, made.path, "a", watcher=watcher)
    assert watcher.here == [0]  # what was whole is not read again


def test_diff_ids_are_verified(repository: Repository, tmp_path: Path) -> None:
    made = layout(tmp_path / "image")
    lie = rewritten(made, "config", rootfs={"type": "layers", "diff_ids": [sha(BASE), sha(b"x")]})
    assert "decompressed" in refused(repository, made, lie)
    lie = rewritten(made, "config", rootfs={"type": "layers", "diff_ids": [sha(BASE)]})
    assert "other layers" in refused(repository, made, lie)


def test_a_manifest_with_another_digest(repository: Repository, tmp_path: Path) -> None:
    made = layout(tmp_path / "image")
    name = made.index["manifests"][0]["digest"]
    path = made.path / "blobs/sha256" / name[7:]
    path.write_bytes(path.read_bytes() + b" ")
    assert "not what was promised" in refused(repository, made, name)
    path.unlink()
    assert "lacks" in refused(repository, made, name)
    path.symlink_to("/etc/passwd")
    assert "lacks" in refused(repository, made, name)


def test_indexes_in_indexes(repository: Repository, tmp_path: Path) -> None:
    made = Layout(tmp_path / "image")
    arm = made.manifest([TOP], architecture="arm64")
    amd = made.manifest([BASE])
    inner = made.document(
        {"schemaVersion": 2, "manifests": [{**arm, "platform": {"os": "linux", "architecture": "arm64"}}, amd]},
        media.OCI_INDEX,
    )
    outer = made.document({"schemaVersion": 2, "manifests": [inner]}, media.DOCKER_LIST)
    for name, wanted in (("linux/amd64", amd), ("linux/arm64", arm)):
        found = pull.resolve(opened(made), outer["digest"], media.parse_platform(name))
        assert (digest.of(found.data), found.origin) == (wanted["digest"], outer["digest"])
    with pytest.raises(BadImage, match="linux/s390x; there is: linux/amd64, linux/arm64"):
        pull.resolve(opened(made), outer["digest"], media.parse_platform("linux/s390x"))
    deep = outer
    for _ in range(5):
        deep = made.document({"schemaVersion": 2, "manifests": [deep]}, media.OCI_INDEX)
    with pytest.raises(BadImage, match="deep"):
        pull.resolve(opened(made), deep["digest"], media.parse_platform("linux/amd64"))


def test_an_index_that_never_ends(repository: Repository, tmp_path: Path) -> None:
    made = Layout(tmp_path / "image")
    arms = [made.manifest([tar([f(str(n))])], architecture="arm64") for n in range(30)]
    index = made.document({"schemaVersion": 2, "manifests": arms}, media.OCI_INDEX)
    with pytest.raises(BadImage, match="manifests to look at"):
        pull.resolve(opened(made), index["digest"], media.parse_platform("linux/amd64"))


def test_a_single_image_for_another_machine(tmp_path: Path) -> None:
    made = Layout(tmp_path / "image")
    arm = made.manifest([BASE], architecture="arm64")
    pull.resolve(opened(made), arm["digest"], media.parse_platform("linux/amd64"))  # as Docker does
    with pytest.raises(BadImage, match="there is: linux/arm64"):
        pull.resolve(opened(made), arm["digest"], media.parse_platform("linux/amd64"), strict=True)


def test_an_image_without_layers(repository: Repository, tmp_path: Path) -> None:
    made = Layout(tmp_path / "image")
    got = pulled(repository, opened(made), made.manifest([])["digest"], "a")
    assert version.load_tree(repository.cache, got.image.tree).root.data is None


def test_what_holds_no_images(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(BadImage, match="holds no images"):
        loaded(repository, tmp_path / "x", "a")
    with pytest.raises(BadImage, match="holds no images"):
        loaded(repository, tarred(tmp_path / "x", tmp_path / "x.tar"), "a")
    (tmp_path / "y.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(BadImage):
        loaded(repository, tmp_path / "y.tar", "a")


def test_two_at_once(repository: Repository, tmp_path: Path) -> None:
    """Two pulls of the same image, each of which finds that the other was quicker."""
    from concurrent.futures import ThreadPoolExecutor

    made = layout(tmp_path / "image")
    with ThreadPoolExecutor(4) as pool:
        got = {pool.submit(loaded, repository, made.path, f"n{n % 2}") for n in range(4)}
        assert len({task.result().cid for task in got}) == 1
    assert check.examine(repository.store).is_clean
