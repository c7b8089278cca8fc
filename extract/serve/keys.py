"""API keys: a file with a name and a key in each line, compared in constant time, and a rate limit for each key."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from extract.errors import UsageError

MIN_LENGTH = 32


@dataclass
class TokenBucket:
    """Allows `rate` requests per second on average, and bursts of twice as many."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    _tokens: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._tokens, self._at = self.capacity, self.clock()

    @property
    def capacity(self) -> float:
        return max(1.0, 2 * self.rate)

    def take(self) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        now = self.clock()
        self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0


class KeyRing:
    """The keys of a file. Only their hashes are held in memory."""

    def __init__(
        self, keys: dict[str, str], rate: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}
        self._buckets = {name: TokenBucket(rate, clock) for name in keys}

    def owner(self, key: str) -> str | None:
        """Name of the key's owner, or None. Takes the same time whatever the key is."""
        digest, owner = _digest(key), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                owner = name
        return owner

    def wait_s(self, owner: str) -> float:
        """Count a request of `owner`; 0, or the seconds until it would be allowed."""
        return self._buckets[owner].take()


def read_keys(path: Path) -> dict[str, str]:
    """Keys by name. Raises UsageError if the file is readable by others, or has a line that is not `NAME KEY`."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The key file {path} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None
    if mode & 0o077:
        raise UsageError(f"The key file {path} can be read by other users: run chmod 600 {path}.")
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *key = line.split()
        if len(key) != 1 or name in keys:
            raise UsageError(f"Line {number} of {path} is not a new name and a key, separated by a space.")
        if len(key[0]) < MIN_LENGTH or not key[0].isascii():
            raise UsageError(
                f"The key of {name} in {path} needs at least {MIN_LENGTH} characters; make one with: openssl rand -hex 32"
            )
        keys[name] = key[0]
    if not keys:
        raise UsageError(
            f'The key file {path} has no key; add a line with: echo "NAME $(openssl rand -hex 32)" >> {path}'
        )
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
