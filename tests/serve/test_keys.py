"""Key files and rate limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from extract.errors import UsageError
from extract.serve.keys import KeyRing, TokenBucket, read_keys
from tests.support.clock import Clock

KEY = "k" * 32
OTHER = "o" * 32


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_keys_are_read_with_their_names(tmp_path: Path) -> None:
    """Comments and empty lines are skipped."""
    assert read_keys(key_file(tmp_path, f"# keys\n\nalice {KEY}\nbob   {OTHER}\n")) == {
        "alice": KEY,
        "bob": OTHER,
    }


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        (f"alice {KEY}", 0o644, "can be read by other users: run chmod 600"),
        (f"alice {KEY}", 0o660, "can be read by other users"),
        ("alice short", 0o600, "needs at least 32 characters; make one with: openssl rand -hex 32"),
        (KEY, 0o600, "Line 1"),
        (f"a {KEY}\na {OTHER}", 0o600, "Line 2"),
        ("# nothing", 0o600, "has no key"),
    ],
)
def test_unusable_key_file_is_refused(tmp_path: Path, text: str, mode: int, sentence: str) -> None:
    """The message says what to do, and never has a key in it."""
    with pytest.raises(UsageError, match=sentence) as refused:
        read_keys(key_file(tmp_path, text, mode))
    assert KEY not in str(refused.value)


def test_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path / "nothing")


def test_only_the_whole_key_identifies_its_owner() -> None:
    """A prefix, another case or an empty key have no owner."""
    ring = KeyRing({"alice": KEY, "bob": OTHER}, rate=1)
    assert ring.owner(KEY) == "alice"
    assert ring.owner(OTHER) == "bob"
    for wrong in ("", KEY[:-1], KEY + "k", KEY.upper(), "ключ", "\udcff"):
        assert ring.owner(wrong) is None
    assert KEY not in repr(vars(ring))


def test_bucket_allows_its_rate_and_a_burst_of_two_seconds() -> None:
    """It fills up again while it is not used, but never beyond its size."""
    clock = Clock()
    bucket = TokenBucket(10, clock)
    assert [bucket.take() for _ in range(20)] == [0.0] * 20
    assert bucket.take() == pytest.approx(0.1)
    clock.sleep(0.5)
    assert sum(bucket.take() == 0 for _ in range(50)) == 5
    clock.sleep(1000)
    assert sum(bucket.take() == 0 for _ in range(50)) == 20


def test_keys_have_separate_limits() -> None:
    """One owner's requests do not use up those of another."""
    ring = KeyRing({"alice": KEY, "bob": OTHER}, rate=1, clock=Clock())
    while not ring.wait_s("alice"):
        pass
    assert ring.wait_s("bob") == 0
