"""References: Docker's grammar, in full and byte for byte."""

from __future__ import annotations

import pytest

from store.oci import reference
from store.oci.errors import BadReference
from store.oci.reference import Reference

SHA = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8

GOOD = {
    "debian": ("docker.io", "library/debian", "latest", None),
    "debian:12": ("docker.io", "library/debian", "12", None),
    f"debian@{SHA}": ("docker.io", "library/debian", None, SHA),
    f"debian:12@{SHA}": ("docker.io", "library/debian", "12", SHA),
    "docker.io/library/debian:12": ("docker.io", "library/debian", "12", None),
    "docker.io/debian": ("docker.io", "library/debian", "latest", None),
    "index.docker.io/debian": ("docker.io", "library/debian", "latest", None),
    "library/debian": ("docker.io", "library/debian", "latest", None),
    "a/b": ("docker.io", "a/b", "latest", None),
    "a/b/c": ("docker.io", "a/b/c", "latest", None),
    "docker.io/a/b": ("docker.io", "a/b", "latest", None),
    "ghcr.io/a/b": ("ghcr.io", "a/b", "latest", None),
    "ghcr.io/debian": ("ghcr.io", "debian", "latest", None),
    "quay.io/a/b:t": ("quay.io", "a/b", "t", None),
    "localhost/x": ("localhost", "x", "latest", None),
    "localhost:5000/x": ("localhost:5000", "x", "latest", None),
    f"localhost:5000/x@{SHA}": ("localhost:5000", "x", None, SHA),
    f"localhost:5000/x:t@{SHA}": ("localhost:5000", "x", "t", SHA),
    f"x@{SHA512}": ("docker.io", "library/x", None, SHA512),
    "127.0.0.1:5000/x:1": ("127.0.0.1:5000", "x", "1", None),
    "[::1]:5000/x": ("[::1]:5000", "x", "latest", None),
    "[2001:db8::1]/x/y": ("[2001:db8::1]", "x/y", "latest", None),
    "Host/x": ("Host", "x", "latest", None),
    "my-host.example:80/x": ("my-host.example:80", "x", "latest", None),
    # no slash: the colon is a tag's, as in Docker
    "localhost:5000": ("docker.io", "library/localhost", "5000", None),
    "localhost": ("docker.io", "library/localhost", "latest", None),
    "xn--n3h.com/myimage:xn--n3h.com": ("xn--n3h.com", "myimage", "xn--n3h.com", None),
    "a_b/c__d/e-f/g---h/i.j": ("docker.io", "a_b/c__d/e-f/g---h/i.j", "latest", None),
    "aB/c:d": ("aB", "c", "d", None),  # no repository has capitals: a host, then
    "x:_": ("docker.io", "library/x", "_", None),
    "x:" + "t" * 128: ("docker.io", "library/x", "t" * 128, None),
    "a" * 255 + "/" + "b" * 0 + "c": None,  # 257 with the slash: too long, see below
    "q/" + "a" * 253: ("docker.io", "q/" + "a" * 253, "latest", None),
    "a" * 64: None,  # 64 hexadecimal digits
    "g" * 64: ("docker.io", "library/" + "g" * 64, "latest", None),
}

BAD = [
    "", " ", "/", ":", "@", ":tag", f"@{SHA}", "a:", "a@", "a:b:c", "a b", "a\n", "a\0b", "-a", "a-", ".a", "_a", "a_",
    "a___b", "a..b", "a._b", "A", "docker.io/A", "ghcr.io/A/b", "a//b", "a/", "/a", "http://a/b",
    "https://docker.io/debian", "a@sha256:abc", "a@" + SHA[:-1], "a@" + SHA + "0", "a@" + SHA.upper(),
    "a@md5:" + "0" * 32, "a@sha256:" + "g" * 64, "x:" + "t" * 129, "x:-t", "x:.t", "x:t/y", "a.b.c", "ghcr.io", "ä",
    "a/ä", "[::1/x", "[::g]/x", "-host.com/x", "host-.com/x", "host:port/x", "host:/x", "../a", "a/../b", "a/./b",
    "0123456789abcdef" * 4, "q/" + "a" * 254, "x" * 2000, "a@b@" + SHA, "a:b@", "a@" + SHA + ":t", "a?b", "a#b", "a%41",
]  # fmt: skip
BAD.remove("a.b.c")  # one name with dots: a repository of Docker Hub
BAD.remove("ghcr.io")


@pytest.mark.parametrize("text", [text for text, wanted in GOOD.items() if wanted])
def test_a_reference_in_full(text: str) -> None:
    wanted = GOOD[text]
    assert wanted is not None
    made = reference.parse(text)
    assert made == Reference(*wanted)
    assert reference.parse(str(made)) == made  # in full it means the same
    assert reference.parse(made.key).key == made.key


@pytest.mark.parametrize("text", [*BAD, *(text for text, wanted in GOOD.items() if not wanted)])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(BadReference) as caught:
        reference.parse(text)
    assert "\n" not in str(caught.value)


def test_keys_and_selectors() -> None:
    both = reference.parse(f"quay.io/a/b:t@{SHA}")
    assert (both.key, both.selector) == (f"quay.io/a/b@{SHA}", SHA)  # the digest says all
    assert reference.parse("debian").key == "docker.io/library/debian:latest"
    assert reference.parse("debian").selector == "latest"


def test_another_default_registry_has_no_library() -> None:
    assert reference.parse("debian", "ghcr.io") == Reference("ghcr.io", "debian", "latest")
    assert reference.parse("a/b", "ghcr.io") == Reference("ghcr.io", "a/b", "latest")
    assert reference.parse("docker.io/debian", "ghcr.io") == Reference("docker.io", "library/debian", "latest")


def test_registries() -> None:
    assert reference.check_registry("index.docker.io") == reference.check_registry("docker.io") == "docker.io"
    assert reference.check_registry("localhost:5000") == "localhost:5000"
    for bad in ("", "https://x", "a/b", "a b", "host:"):
        with pytest.raises(BadReference):
            reference.check_registry(bad)
