"""Rows about images: pulled, beside skopeo and umoci from the same registry; and what ten of them take."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tools.benchmarks import image_inputs, peers
from tools.benchmarks.bench import Bench, Row, Sample
from tools.benchmarks.inputs import MB

_PEER = "skopeo copy + umoci unpack"


def pull(bench: Bench) -> Iterator[Sample]:
    """From a registry on this machine to a tree that can be used: in the store, or on the disk."""
    with image_inputs.images(bench) as images:
        first, second = images.every[:2]
        if bench.wants("monofs"):
            store = bench.empty("monofs-images")
            for what, reference in (
                ("an image", first),
                ("the same image again", first),
                ("a second image on the same base", second),
            ):
                yield from _both(what, "monofs", _timed(bench, "monofs", "--store", store, "pull", reference))
            bench.remove(store)
        if bench.wants(_PEER):
            layout, root = bench.work / "layout", bench.work / "root"
            for what, reference in (("an image", first), ("a second image on the same base", second)):
                copied = _timed(bench, *_skopeo(reference, layout))
                unpacked = _timed(bench, "umoci", "unpack", "--image", f"{layout}:t", root)
                yield from _both(what, _PEER, (copied[0] + unpacked[0], copied[1] + unpacked[1]))
                if reference == first:
                    yield Sample("an image, fetched only", "skopeo copy", copied[0], "s")
                bench.remove(root)
            bench.remove(layout)


def layers(bench: Bench) -> Iterator[Sample]:
    """One layer alone; MB are those of its archive, not compressed."""
    with image_inputs.images(bench) as images:
        for what, reference, size in (
            (f"base layer ({images.base_bytes / MB:.0f} MB)", images.base, images.base_bytes),
            (f"upper layer ({images.app_bytes / MB:.0f} MB)", images.app, images.app_bytes),
        ):
            if bench.wants("monofs"):
                store = bench.empty("monofs-images")
                seconds, _ = _timed(bench, "monofs", "--store", store, "pull", reference)
                yield Sample(what, "monofs", size / MB / seconds, "MB/s")
                bench.remove(store)
            if bench.wants(_PEER):
                layout, root = bench.work / "layout", bench.work / "root"
                copied, _ = _timed(bench, *_skopeo(reference, layout))
                unpacked, _ = _timed(bench, "umoci", "unpack", "--image", f"{layout}:t", root)
                yield Sample(what, _PEER, size / MB / (copied + unpacked), "MB/s")
                bench.remove(layout)
                bench.remove(root)


def shared(bench: Bench) -> Iterator[Sample]:
    """What ten images take, and how long they take."""
    what = f"{image_inputs.COUNT} images that share a base"
    with image_inputs.images(bench) as images:
        store, layout, root = bench.empty("monofs-images"), bench.work / "layout", bench.work / "root"
        begin = time.perf_counter()
        for reference in images.every:
            bench.command("monofs", "--store", store, "pull", reference)
        yield Sample(f"{what}, all pulled", "monofs", time.perf_counter() - begin, "s")
        yield Sample(f"{what}, stored", "monofs", _stored(bench, store) / MB, "MB")
        yield Sample(f"{what}, on disk", "monofs", peers.disk_bytes(store) / MB, "MB")
        rows = json.loads(bench.command("monofs", "--store", store, "images", "--json"))
        yield Sample(f"{what}, stored", "sum of their layers, gzip", sum(row["size"] for row in rows) / MB, "MB")
        bench.remove(store)
        begin = time.perf_counter()
        for number, reference in enumerate(images.every):
            bench.command(*_skopeo(reference, layout, f"t{number}"))
        yield Sample(f"{what}, all pulled", "skopeo copy, nothing unpacked", time.perf_counter() - begin, "s")
        yield Sample(f"{what}, on disk", "each layer once, gzip (skopeo)", peers.disk_bytes(layout) / MB, "MB")
        bench.command("umoci", "unpack", "--image", f"{layout}:t0", root)
        one = peers.disk_bytes(root / "rootfs") / MB
        bench.remove(root)
        bench.remove(layout)
        yield Sample(f"{what}, on disk", "umoci, ten times the first", one * image_inputs.COUNT, "MB")


def _both(what: str, tool: str, found: tuple[float, float]) -> Iterator[Sample]:
    yield Sample(what, tool, found[0], "s")
    yield Sample(f"{what}, CPU", tool, found[1], "s")


def _timed(bench: Bench, *words: str | Path) -> tuple[float, float]:
    """Run a command; returns the seconds it took, and those of CPU time."""
    before = os.times()
    bench.command(*words)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return after.elapsed - before.elapsed, cpu


def _skopeo(reference: str, layout: Path, tag: str = "t") -> tuple[str, ...]:
    words = ("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false")
    return (*words, f"docker://{reference}", f"oci:{layout}:{tag}")


def _stored(bench: Bench, store: Path) -> float:
    return float(json.loads(bench.command("monofs", "--store", store, "store-info", "--json"))["stored_bytes"])


ROWS = (
    Row("pull", "an image from a registry here, until its tree can be used", pull),
    Row("layers", "one layer alone, MB/s", layers),
    Row("shared", "what ten images on one base take", shared, repeat_max=1),
)
