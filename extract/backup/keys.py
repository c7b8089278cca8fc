"""The key of backups: 32 bytes in a file that is not stored with them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from extract.errors import UsageError

KEY_BYTES = 32
MAKE_KEY = "openssl rand -hex 32 > {path}"


@dataclass(frozen=True)
class BackupKey:
    """A key and the file that it was read from."""

    secret: bytes = field(repr=False)
    path: Path

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the key, and do not reveal it."""
        return hashlib.sha256(b"deribit-tape backup key\0" + self.secret).hexdigest()[:16]

    def derive(self, salt: bytes, name: str) -> bytes:
        """The key of one file, by its random salt and its name."""
        return HKDF(SHA256(), KEY_BYTES, salt, b"deribit-tape backup file\0" + name.encode()).derive(
            self.secret
        )


def read_key(path: Path, place: str) -> BackupKey:
    """Read a key of 64 hexadecimal digits.

    Raises UsageError where there is no key in the file, and where the file is in the folder of the backups, `place`: who
    can read the backups could then read the key.
    """
    if "://" not in place and path.resolve().is_relative_to(Path(place).resolve()):
        raise UsageError(f"The key {path} is in the folder of the backups, {place}: store it elsewhere.")
    make = MAKE_KEY.format(path=path)
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        raise UsageError(
            f"There is no key file {path}; make one with `{make}`, and store a copy of it in another place: "
            "without the key no backup can be restored."
        ) from None
    except OSError as error:
        raise UsageError(f"The key file {path} cannot be read: {error.strerror}.") from error
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise UsageError(
            f"{path} is not a key of 64 hexadecimal digits; make one in a new file with `{make}`."
        )
    return BackupKey(bytes.fromhex(text), path)
