"""Sealed files: encrypted by AES-256-GCM in chunks, so that any change is detected and memory stays flat.

    magic | fingerprint of the key | salt | chunk 0 | chunk 1 | …

Each file has a key of its own, derived from the user's key, the file's random salt and its name. A chunk is up to 1 MiB of
content with a tag of 16 bytes. Its nonce is its number and whether it is the last one, so chunks that are missing, repeated,
reordered or appended fail the authentication, as in STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, 2015). The header is authenticated with every chunk.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from extract.backup.keys import BackupKey
from extract.errors import ProofError, UsageError

MAGIC = b"deribit-tape sealed 1\n"
FINGERPRINT_BYTES = 8
SALT_BYTES = 16
HEADER_BYTES = len(MAGIC) + FINGERPRINT_BYTES + SALT_BYTES
CHUNK_BYTES = 1 << 20
TAG_BYTES = 16


def seal(key: BackupKey, name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the sealed file `name` with the content `pieces`, in parts of about a chunk."""
    salt = os.urandom(SALT_BYTES)
    header = MAGIC + bytes.fromhex(key.fingerprint) + salt
    cipher = AESGCM(key.derive(salt, name))
    yield header
    number, pending = 0, bytearray()
    for piece in pieces:
        pending += piece
        while len(pending) > CHUNK_BYTES:  # the last chunk is known at the end only
            yield cipher.encrypt(_nonce(number, is_last=False), bytes(pending[:CHUNK_BYTES]), header)
            del pending[:CHUNK_BYTES]
            number += 1
    yield cipher.encrypt(_nonce(number, is_last=True), bytes(pending), header)


def unseal(key: BackupKey, name: str, file: BinaryIO, place: str) -> Generator[bytes, None, None]:
    """Yield the content of a sealed file, each chunk after it has been authenticated. `place`: its address, for messages.

    Raises UsageError for a file that was sealed by another key, and ProofError for one that is not as it was written. The
    content is complete only once the iterator has ended.
    """
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise ProofError(f"{place} is damaged: it is not a sealed file.")
    fingerprint = header[len(MAGIC) : len(MAGIC) + FINGERPRINT_BYTES].hex()
    if fingerprint != key.fingerprint:
        raise UsageError(
            f"{place} is encrypted with key {fingerprint}, and {key.path} has key {key.fingerprint}: "
            "name the file of the right key by --key-file."
        )
    cipher = AESGCM(key.derive(header[-SALT_BYTES:], name))
    number = 0
    chunk = file.read(CHUNK_BYTES + TAG_BYTES)
    while True:
        following = file.read(CHUNK_BYTES + TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(number, is_last=not following), chunk, header)
        except InvalidTag:
            raise ProofError(f"{place} is damaged in chunk {number}: it is not as it was written.") from None
        if not following:
            return
        chunk, number = following, number + 1


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])
