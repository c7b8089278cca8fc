"""The certificates of one environment on disk.

DIRECTORY/              0700
    ca.pem  ca.key      the authority that signs; its key is needed nowhere else, and stays on this machine
    ca-before.pem       the one before while both are trusted; else the same as ca.pem, for the edge reads both files
    trusted.pem         what clients trust, CLICKHOUSE_CLOUD_CA_CERT: ca.pem, and ca-before.pem where that is another
    server.pem/.key     the edge's own
    ROLE.pem/.key       a client's own: loader, transformer, reader
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

from extract.certs.authority import (
    CERTIFICATE_DAYS,
    Signed,
    hosts_of,
    new_authority,
    new_client,
    new_server,
    signed_by,
)
from extract.errors import UsageError
from extract.paths import tape_dir

ROLES = ("loader", "transformer", "reader")
SERVER = "server"

_ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_HOST = re.compile(r"(?=.{1,253}$)(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.IGNORECASE)


def certs_dir() -> Path:
    """Where the environments' directories are: `.tape/certs/`."""
    return tape_dir() / "certs"


def environments() -> list[str]:
    """Those that have a directory."""
    root = certs_dir()
    found = (path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else ()
    return sorted(name for name in found if _ENVIRONMENT.fullmatch(name))  # beside them may lie a backup


@dataclass(frozen=True)
class CertificateStore:
    """One environment's files. Raises UsageError where what is asked for does not fit what is there."""

    environment: str

    def __post_init__(self) -> None:
        if not _ENVIRONMENT.fullmatch(self.environment):
            raise UsageError(
                f"--environment {self.environment!r} cannot be; take small letters, digits and dashes."
            )

    @property
    def directory(self) -> Path:
        return certs_dir() / self.environment

    def path(self, name: str) -> Path:
        return self.directory / name

    def init(self, hosts: Sequence[str], days: int = CERTIFICATE_DAYS) -> None:
        """An authority, the edge's certificate for `hosts`, and one for each role."""
        if self.path("ca.key").exists():
            raise UsageError(
                f"{self.environment} has an authority; a new one beside it: tape certs rotate -e {self.environment}"
            )
        _require_hosts(hosts)
        authority = new_authority(self.environment)
        self._trust(authority, before=None)
        self._sign_all(authority, hosts, days)

    def issue(self, name: str, days: int = CERTIFICATE_DAYS, hosts: Sequence[str] = ()) -> None:
        """A new certificate for a role, or the server; the one before stays valid until its end."""
        authority = self.authority()
        if name != SERVER:
            self._write(name, new_client(authority, name, days=days))
            return
        if self.is_rotating:
            # Clients that have not yet got trusted.pem know the authority before alone.
            raise UsageError(
                f"{self.environment} is between two authorities; `tape certs revoke -e {self.environment}` "
                "ends that, with a new server certificate."
            )
        _require_hosts(hosts)
        self._write(SERVER, new_server(authority, hosts or self.hosts(), days=days))

    def rotate(self, days: int = CERTIFICATE_DAYS) -> None:
        """A new authority beside the one before, and new client certificates under it; the server's stays as it is."""
        before = self.authority()
        if self.is_rotating:
            raise UsageError(
                f"{self.environment} is between two authorities already; when every client has its new files: "
                f"tape certs revoke -e {self.environment}"
            )
        authority = new_authority(self.environment)
        self._trust(authority, before=before.certificate)
        for role in ROLES:
            self._write(role, new_client(authority, role, days=days))

    def revoke(self, *, now: bool = False, days: int = CERTIFICATE_DAYS) -> None:
        """The authority before is trusted no more. `now`: neither is the present one; all is signed anew."""
        hosts, authority = self.hosts(), self.authority()
        if now:
            authority = new_authority(self.environment)
        elif not self.is_rotating:
            raise UsageError(
                f"{self.environment} has one authority; begin with `tape certs rotate -e {self.environment}`, "
                f"or refuse all that was issued so far: tape certs revoke --now -e {self.environment}"
            )
        else:
            self._require_signed(authority)
            # While both are trusted still, so that this can be given again if it is cut off.
            self._write(SERVER, new_server(authority, hosts, days=days))
        self._trust(authority, before=None)
        if now:
            self._sign_all(authority, hosts, days)

    @property
    def is_rotating(self) -> bool:
        """Whether two authorities are trusted."""
        before = self.path("ca-before.pem")
        return before.exists() and before.read_bytes() != self.path("ca.pem").read_bytes()

    def authority(self) -> Signed:
        """The one that signs."""
        if not self.path("ca.key").exists():
            raise UsageError(
                f"{self.environment} has no authority in {self.directory}; "
                f"make one: tape certs init -e {self.environment} --host NAME"
            )
        certificate = load_certificates(self.path("ca.pem"))[0]
        try:
            key = load_pem_private_key(self.path("ca.key").read_bytes(), None)
        except (ValueError, OSError):
            raise UsageError(f"{self.path('ca.key')} cannot be read as a private key.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise UsageError(
                f"{self.path('ca.key')} is not the key of {self.path('ca.pem')}; bring the right one back, "
                f"or remove it and begin anew: tape certs init -e {self.environment} --host NAME"
            )
        return Signed(certificate, key)

    def hosts(self) -> list[str]:
        """What the edge's certificate was made for."""
        self.authority()
        return hosts_of(load_certificates(self.path("server.pem"))[0])

    def files(self) -> Iterator[Path]:
        """Every file with certificates, also one that should be there and is not."""
        yield self.path("ca.pem")
        if self.is_rotating:
            yield self.path("ca-before.pem")
        yield from (self.path(f"{name}.pem") for name in (SERVER, *ROLES))

    def _sign_all(self, authority: Signed, hosts: Sequence[str], days: int) -> None:
        self._write(SERVER, new_server(authority, hosts, days=days))
        for role in ROLES:
            self._write(role, new_client(authority, role, days=days))

    def _require_signed(self, authority: Signed) -> None:
        """A rotation that was cut off may have left a role with the certificate that is about to be refused."""
        for role in ROLES:
            path = self.path(f"{role}.pem")
            if path.exists() and not signed_by(load_certificates(path)[0], authority.certificate):
                raise UsageError(
                    f"{self.environment}'s {role} has a certificate of the authority before, which would be refused; "
                    f"first: tape certs issue {role} -e {self.environment}"
                )

    def _trust(self, authority: Signed, before: x509.Certificate | None) -> None:
        ca = authority.certificate_pem
        older = before.public_bytes(Encoding.PEM) if before else b""
        # The authority last: cut off before, the one that was here signs on, and the command can be given again.
        self._put("ca-before.pem", older or ca, 0o644)
        self._put("trusted.pem", ca + older, 0o644)
        self._write("ca", authority)

    def _write(self, name: str, signed: Signed) -> None:
        self._put(f"{name}.key", signed.key_pem, 0o600)
        self._put(f"{name}.pem", signed.certificate_pem, 0o644)

    def _put(self, name: str, content: bytes, mode: int) -> None:
        """The whole file or the one before it; a key is never readable by others, not for a moment."""
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
    """A certificate for what no client takes for the edge's name, a URL for example, would be refused by all."""
    for host in hosts:
        if not _HOST.fullmatch(host) and not _is_address(host):
            raise UsageError(
                f"--host {host!r} is no name or address of a host; it reads like edge.example.com, letters beyond ASCII "
                "in their form that begins with xn--."
            )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Every certificate of a PEM file. Raises UsageError if it holds none that can be read."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} is not there.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise UsageError(f"{path} holds no certificate that can be read.") from None
