"""Certificate files of one environment: create, renew, rotate and revoke them.

DIRECTORY/              mode 0700
    ca.pem  ca.key      current authority; the key is only needed for signing and stays on this machine
    ca-before.pem       previous authority during a rotation; otherwise a copy of ca.pem, because the edge reads both
    trusted.pem         authorities that clients trust (CLICKHOUSE_CLOUD_CA_CERT): ca.pem, plus the previous one
    server.pem/.key     certificate of the edge
    ROLE.pem/.key       certificate of a client: loader, transformer, reader
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from extract.certs import ROLES, SERVER
from extract.certs.authority import (
    CERTIFICATE_DAYS,
    Signed,
    is_signed_by,
    new_authority,
    new_client,
    new_server,
    server_names,
)
from extract.errors import UsageError
from extract.paths import tape_dir

_ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_HOST = re.compile(r"(?=.{1,253}$)(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.IGNORECASE)


def certs_dir() -> Path:
    """Return the parent directory of all environments: `.tape/certs/`."""
    return tape_dir() / "certs"


def environments() -> list[str]:
    """Return the environments that have a directory; other names, such as a backup `production.bak`, are ignored."""
    names = (path.name for path in certs_dir().glob("*/"))
    return sorted(name for name in names if _ENVIRONMENT.fullmatch(name))


@dataclass(frozen=True)
class CertificateStore:
    """Files of one environment. Methods raise UsageError if a command does not fit the present state."""

    environment: str

    def __post_init__(self) -> None:
        if not _ENVIRONMENT.fullmatch(self.environment):
            raise UsageError(
                f"--environment {self.environment!r} is invalid; use lower-case letters, digits and dashes."
            )

    @property
    def directory(self) -> Path:
        return certs_dir() / self.environment

    def path(self, name: str) -> Path:
        return self.directory / name

    def init(self, hosts: Sequence[str], days: int = CERTIFICATE_DAYS) -> None:
        """Create an authority, a server certificate for `hosts`, and a client certificate per role."""
        if self.path("ca.key").exists():
            raise UsageError(
                f"{self.environment} already has an authority; to replace it: tape certs rotate -e {self.environment}"
            )
        _require_hosts(hosts)
        authority = new_authority(self.environment)
        self._trust(authority, before=None)
        self._sign_all(authority, hosts, days)

    def issue(self, name: str, days: int = CERTIFICATE_DAYS, hosts: Sequence[str] = ()) -> None:
        """Renew the certificate of a role or of the server; the previous one stays valid until it expires."""
        authority = self.authority()
        if name != SERVER:
            self._write(name, new_client(authority, name, days=days))
            return
        if self.is_rotating:
            # Clients without the new trusted.pem only know the previous authority.
            raise UsageError(
                f"{self.environment} is in the middle of a rotation; `tape certs revoke -e {self.environment}` "
                "completes it and renews the server certificate."
            )
        _require_hosts(hosts)
        self._write(SERVER, new_server(authority, hosts or self.hosts(), days=days))

    def rotate(self, days: int = CERTIFICATE_DAYS) -> None:
        """Start a rotation: add a new authority and sign client certificates with it; keep the server's certificate."""
        before = self.authority()
        if self.is_rotating:
            raise UsageError(
                f"{self.environment} is already in the middle of a rotation; when every client has its new files: "
                f"tape certs revoke -e {self.environment}"
            )
        authority = new_authority(self.environment)
        self._trust(authority, before=before.certificate)
        for role in ROLES:
            self._write(role, new_client(authority, role, days=days))

    def revoke(self, *, now: bool = False, days: int = CERTIFICATE_DAYS) -> None:
        """Stop trusting the previous authority; with `now` the current one too, and sign everything again."""
        hosts, authority = self.hosts(), self.authority()
        if now:
            authority = new_authority(self.environment)
        elif not self.is_rotating:
            raise UsageError(
                f"{self.environment} has only one authority; start with `tape certs rotate -e {self.environment}`, "
                f"or reject every certificate issued so far: tape certs revoke --now -e {self.environment}"
            )
        else:
            self._require_signed(authority)
            # Before the trust changes, so that an interrupted command can be repeated.
            self._write(SERVER, new_server(authority, hosts, days=days))
        self._trust(authority, before=None)
        if now:
            self._sign_all(authority, hosts, days)

    @property
    def is_rotating(self) -> bool:
        """Whether a rotation is in progress: two authorities are trusted."""
        before = self.path("ca-before.pem")
        return before.exists() and before.read_bytes() != self.path("ca.pem").read_bytes()

    def authority(self) -> Signed:
        """Load the current authority."""
        if not self.path("ca.key").exists():
            raise UsageError(
                f"{self.environment} has no authority in {self.directory}; "
                f"create one: tape certs init -e {self.environment} --host NAME"
            )
        certificate = load_certificates(self.path("ca.pem"))[0]
        try:
            key = load_pem_private_key(self.path("ca.key").read_bytes(), None)
        except (ValueError, OSError):
            raise UsageError(f"{self.path('ca.key')} cannot be read as a private key.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise UsageError(
                f"{self.path('ca.key')} is not the key of {self.path('ca.pem')}; restore the right one, "
                f"or remove it and start again: tape certs init -e {self.environment} --host NAME"
            )
        return Signed(certificate, key)

    def hosts(self) -> list[str]:
        """Return the host names and addresses of the server certificate."""
        self.authority()
        return server_names(load_certificates(self.path("server.pem"))[0])

    def files(self) -> Iterator[Path]:
        """Yield every certificate file that should exist."""
        yield self.path("ca.pem")
        if self.is_rotating:
            yield self.path("ca-before.pem")
        yield from (self.path(f"{name}.pem") for name in (SERVER, *ROLES))

    def _sign_all(self, authority: Signed, hosts: Sequence[str], days: int) -> None:
        self._write(SERVER, new_server(authority, hosts, days=days))
        for role in ROLES:
            self._write(role, new_client(authority, role, days=days))

    def _require_signed(self, authority: Signed) -> None:
        """Raise if an interrupted rotation left a role with a certificate that would now be rejected."""
        for role in ROLES:
            path = self.path(f"{role}.pem")
            if path.exists() and not is_signed_by(load_certificates(path)[0], authority.certificate):
                raise UsageError(
                    f"{self.environment}'s {role} still has a certificate of the previous authority, to be rejected; "
                    f"first: tape certs issue {role} -e {self.environment}"
                )

    def _trust(self, authority: Signed, before: x509.Certificate | None) -> None:
        ca = authority.certificate_pem
        older = before.public_bytes(Encoding.PEM) if before else b""
        # The authority last: if interrupted before, the previous one still signs and the command can be repeated.
        self._put("ca-before.pem", older or ca, 0o644)
        self._put("trusted.pem", ca + older, 0o644)
        self._write("ca", authority)

    def _write(self, name: str, signed: Signed) -> None:
        self._put(f"{name}.key", signed.key_pem, 0o600)
        self._put(f"{name}.pem", signed.certificate_pem, 0o644)

    def _put(self, name: str, content: bytes, mode: int) -> None:
        """Replace a file atomically; a key is never readable by other users, not even briefly."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for directory in (self.directory.parent, self.directory):
            directory.chmod(0o700)
        fresh = self.path(f".{name}.new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path(name))


def _require_hosts(hosts: Sequence[str]) -> None:
    """Reject anything that is not a host name or an address, for example a URL: no client would accept it."""
    for host in hosts:
        if not _HOST.fullmatch(host) and not _is_address(host):
            raise UsageError(
                f"--host {host!r} is not a host name or address; expected a name like edge.example.com, "
                "with non-ASCII letters in their xn-- form."
            )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Load every certificate of a PEM file. Raises UsageError if none can be read."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise UsageError(f"{path} contains no readable certificate.") from None
