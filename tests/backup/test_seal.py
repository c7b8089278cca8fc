"""Sealed files: whatever is changed is detected, and by name."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest

from extract.backup.keys import BackupKey, read_key
from extract.backup.seal import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, seal, unseal
from extract.errors import ProofError, UsageError

KEY = BackupKey(bytes(range(32)), Path("a.key"))
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES
CONTENT = bytes(itertools.islice(itertools.cycle(range(251)), 2 * CHUNK_BYTES + 1000))


def sealed(content: bytes, name: str = "name", piece_bytes: int = 300_000) -> bytes:
    pieces = [content[first : first + piece_bytes] for first in range(0, len(content), piece_bytes)]
    return b"".join(seal(KEY, name, pieces))


def opened(data: bytes, name: str = "name", key: BackupKey = KEY) -> bytes:
    return b"".join(unseal(key, name, io.BytesIO(data), f"folder/{name}"))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(CONTENT)])
def test_content_is_returned_and_not_readable_in_the_file(size: int) -> None:
    data = sealed(CONTENT[:size])
    assert opened(data) == CONTENT[:size]
    chunks = max(1, -(-size // CHUNK_BYTES))
    assert len(data) == HEADER_BYTES + size + chunks * TAG_BYTES
    assert size < 100 or CONTENT[:100] not in data


def test_the_same_content_is_encrypted_differently_each_time() -> None:
    """A nonce is never used twice with one key."""
    assert sealed(b"content") != sealed(b"content")


FILE = sealed(CONTENT)
CHUNKS = [FILE[at : at + SEALED_CHUNK] for at in range(HEADER_BYTES, len(FILE), SEALED_CHUNK)]
HEADER = FILE[:HEADER_BYTES]
CHANGES = {
    "first byte of the magic": bytes([FILE[0] ^ 1]) + FILE[1:],
    "salt": FILE[: HEADER_BYTES - 1] + bytes([FILE[HEADER_BYTES - 1] ^ 128]) + FILE[HEADER_BYTES:],
    "one bit of the first chunk": FILE[:1000] + bytes([FILE[1000] ^ 1]) + FILE[1001:],
    "last byte": FILE[:-1] + bytes([FILE[-1] ^ 1]),
    "end of the header": HEADER[:-1],
    "all chunks": HEADER,
    "last byte is missing": FILE[:-1],
    "last chunk is missing": HEADER + CHUNKS[0] + CHUNKS[1],
    "first chunk is missing": HEADER + CHUNKS[1] + CHUNKS[2],
    "chunks are swapped": HEADER + CHUNKS[1] + CHUNKS[0] + CHUNKS[2],
    "a chunk is repeated": HEADER + CHUNKS[0] + CHUNKS[0] + CHUNKS[1] + CHUNKS[2],
    "the last chunk is repeated": FILE + CHUNKS[2],
    "a byte is appended": FILE + b"x",
    "a chunk of another file": HEADER
    + sealed(CONTENT)[HEADER_BYTES : HEADER_BYTES + SEALED_CHUNK]
    + CHUNKS[1]
    + CHUNKS[2],
    "empty": b"",
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_file_is_refused_by_name(change: str) -> None:
    assert CHANGES[change] != FILE
    with pytest.raises(ProofError, match=r"folder/name is damaged"):
        opened(CHANGES[change])


def test_renamed_file_is_refused() -> None:
    """A file of another month cannot take the place of a file."""
    with pytest.raises(ProofError, match=r"folder/other is damaged"):
        opened(FILE, "other")


def test_foreign_key_is_refused_by_name() -> None:
    other = BackupKey(bytes(32), Path("other.key"))
    with pytest.raises(UsageError) as refused:
        opened(FILE, key=other)
    assert KEY.fingerprint in str(refused.value)
    assert f"other.key has key {other.fingerprint}" in str(refused.value)


def test_key_with_the_fingerprint_of_another_is_refused() -> None:
    """The fingerprint only names the key; what refuses a wrong one is the authentication."""

    class Impostor(BackupKey):
        fingerprint = KEY.fingerprint

    with pytest.raises(ProofError, match="damaged in chunk 0"):
        opened(FILE, key=Impostor(bytes(32), Path("other.key")))


def test_key_is_not_in_its_representation() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)
    assert KEY.fingerprint not in KEY.secret.hex()


def test_key_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY.secret.hex().upper() + "\n")
    assert read_key(tmp_path / "key", "s3://bucket").secret == KEY.secret


@pytest.mark.parametrize(
    "text", ["", "00" * 31, "00" * 33, "zz" * 32, "ä" * 64, "00" * 16 + "\n" + "00" * 16]
)
def test_file_that_is_no_key_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(
        UsageError, match=r"is not a key of 64 hexadecimal digits; make one .*openssl rand -hex 32"
    ):
        read_key(tmp_path / "key", "s3://bucket")


def test_missing_key_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"There is no key file .*key; make one with `openssl rand -hex 32 >"
    ):
        read_key(tmp_path / "key", "s3://bucket")


def test_key_in_the_folder_of_the_backups_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backups" / "keys").mkdir(parents=True)
    (tmp_path / "backups" / "keys" / "key").write_text("00" * 32)
    (tmp_path / "link").symlink_to(tmp_path / "backups")
    for folder in ("backups", "link"):
        with pytest.raises(UsageError, match="is in the folder of the backups"):
            read_key(tmp_path / "link" / "keys" / "key", str(tmp_path / folder))
