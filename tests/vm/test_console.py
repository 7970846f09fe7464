"""What is kept of what was said."""

from __future__ import annotations

from pathlib import Path

from vmm.console import BoundedFile, tail


def test_the_latest_bytes_are_kept_and_no_more(tmp_path: Path) -> None:
    log = BoundedFile(tmp_path / "log", 100)
    whole = bytes(range(256)) * 3 + b"end"
    for at in range(0, len(whole), 7):
        log.write(whole[at : at + 7])
    log.write(b"x" * 350)
    log.close()
    whole += b"x" * 350
    kept = (tmp_path / "log.1").read_bytes() + (tmp_path / "log").read_bytes()
    assert whole.endswith(kept) and 100 < len(kept) <= 200
    assert {path.name for path in tmp_path.iterdir()} == {"log", "log.1"}
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_the_last_lines_are_safe_to_show(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\n\n\x1b[31mtwo\r\nthree\n \nfour")
    assert tail(tmp_path / "log", 3) == "[31mtwo / three / four"
    (tmp_path / "log").write_bytes(b"y" * 100_000)
    assert 0 < len(tail(tmp_path / "log")) < 1000
    assert tail(tmp_path / "none") == ""
