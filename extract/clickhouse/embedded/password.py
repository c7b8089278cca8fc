"""Random passwords of the embedded server, readable only by their owner.

TAPE_DIR/password is that of the user who may do everything, TAPE_DIR/reader-password that of the role reader. A password is
only sent to a server that is known to be the one that `tape up` started: the server holds the lock on its own
file, which no other program can write, and that file names its port.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from extract.clickhouse.embedded.home import ServerHome
from extract.errors import UsageError
from extract.paths import make_private_dir

MIN_LENGTH = 12
# Passwords that are documented somewhere, among them the default of earlier versions.
PUBLIC_PASSWORDS = frozenset({"tape-development", "change-me-please", "clickhouse123", "passwordpassword"})


def password_path(tape_dir: Path, role: str = "") -> Path:
    return tape_dir / (f"{role}-password" if role else "password")


def read_password(tape_dir: Path, role: str = "") -> str:
    """Return the password, "" before the first `tape up`. Raises UsageError if the file cannot be read."""
    path = password_path(tape_dir, role)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); set CLICKHOUSE_{role.upper() or 'LOCAL'}_PASSWORD, or delete the file."
        ) from None


def ensure_password(tape_dir: Path, role: str = "") -> str:
    """Return the password, and create it if there is none."""
    if password := read_password(tape_dir, role):
        return password
    make_private_dir(tape_dir)
    password, fresh = secrets.token_urlsafe(24), tape_dir / ".password.new"
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(password + "\n")
    fresh.replace(password_path(tape_dir, role))
    return password


def is_public(password: str) -> bool:
    """Whether a password is documented or short enough to guess."""
    return len(password) < MIN_LENGTH or password in PUBLIC_PASSWORDS


def require_own_server(tape_dir: Path, host: str, port: int) -> None:
    """Raise UsageError if another server than the one that `tape up` started listens at `host` and `port`.

    Returns if nothing listens there, because then nothing receives the password.
    """
    if ServerHome(tape_dir).running_port() == port:
        return
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return
    raise UsageError(
        f"The server at {host}:{port} was not started by `tape up`, so it does not get the password of "
        f"{password_path(tape_dir)}: set CLICKHOUSE_LOCAL_PASSWORD (and CLICKHOUSE_LOCAL_USER) to use it, "
        "or CLICKHOUSE_LOCAL_PORT to another port."
    )
