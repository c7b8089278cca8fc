"""Cursors: the key of the last row of a page, bound to the question that the page belongs to."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from extract.serve.errors import ApiError

_DIGEST_LENGTH = 12


def question_digest(path: str, parameters: Mapping[str, Any]) -> str:
    """A short digest of a question without its cursor and limit: a cursor is valid for the same question only."""
    text = msgspec.json.encode([path, sorted((name, str(value)) for name, value in parameters.items())])
    return hashlib.sha256(text).hexdigest()[:_DIGEST_LENGTH]


def encode_cursor(digest: str, key: Sequence[str]) -> str:
    """A cursor after the row with `key`, as text that is safe in an address."""
    return base64.urlsafe_b64encode(msgspec.json.encode([digest, *key])).rstrip(b"=").decode()


def decode_cursor(cursor: str, digest: str, size: int) -> list[str]:
    """The key of a cursor of the question `digest` whose keys have `size` columns. Raises ApiError."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        owner, *key = msgspec.json.decode(base64.b64decode(padded, b"-_", validate=True), type=list[str])
    except (ValueError, msgspec.DecodeError):
        raise ApiError("invalid_cursor", "The cursor is not one that this API returned.") from None
    if owner != digest or len(key) != size:
        raise ApiError(
            "invalid_cursor",
            "The cursor belongs to another question: use it with the parameters of the answer that it is from.",
        )
    return key
