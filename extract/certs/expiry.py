"""Expiry and validity of certificates: those in files, and the one that a server presents.

A certificate that cannot be read is an alarm, so that a failed check never looks like a passed one.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from extract.certs.store import CertificateStore, environments, load_certificates
from extract.errors import UsageError

MIN_DAYS_LEFT = 30
WIRE_TIMEOUT_S = 10
PREFIX = "CLICKHOUSE_CLOUD_"


@dataclass(frozen=True)
class CertificateStatus:
    """One certificate. `days_left` is whole days: negative if it has expired, None if it cannot be read."""

    name: str
    """Name shown to the user: `production server`, `CLICKHOUSE_CLOUD_CLIENT_CERT`."""
    source: str
    """Its file, or `host:port` of the server that presented it."""
    subject: str | None = None
    not_after: datetime | None = None
    days_left: int | None = None
    problem: str | None = None
    """Reason for an alarm that does not depend on the days left."""

    def is_alarm(self, min_days_left: int = MIN_DAYS_LEFT) -> bool:
        return self.problem is not None or self.days_left is None or self.days_left < min_days_left

    def to_json(self, min_days_left: int = MIN_DAYS_LEFT) -> dict[str, object]:
        not_after = self.not_after.strftime("%Y-%m-%dT%H:%M:%SZ") if self.not_after else None
        return asdict(self) | {"not_after": not_after, "alarm": self.is_alarm(min_days_left)}


def configured_certificates(
    server: tuple[str, int] | None, env: Mapping[str, str] = os.environ
) -> Iterator[CertificateStatus]:
    """Check the authority and client files that CLICKHOUSE_CLOUD_* name, and the certificate of `server`.

    `server` is the host and port of the target cloud, None if there is none.
    """
    for variable in (f"{PREFIX}CA_CERT", f"{PREFIX}CLIENT_CERT"):
        if path := env.get(variable):
            yield from file_certificates(variable, Path(path))
    client, key = env.get(f"{PREFIX}CLIENT_CERT"), env.get(f"{PREFIX}CLIENT_KEY")
    if client and key and (problem := _key_problem(Path(client), Path(key))):
        yield CertificateStatus(f"{PREFIX}CLIENT_KEY", key, problem=problem)
    if server:
        yield server_certificate(*server, authorities=trusted_files(env=env))


def stored_certificates(environment: str | None = None) -> Iterator[CertificateStatus]:
    """Check the files of one environment of `tape certs`, or of all."""
    for each in [environment] if environment else environments():
        for path in CertificateStore(each).files():
            yield from file_certificates(f"{each} {path.stem}", path)
            key = path.with_suffix(".key")
            if path.stem != "ca-before" and (problem := _key_problem(path, key)):
                yield CertificateStatus(f"{each} {path.stem} key", str(key), problem=problem)


def file_certificates(name: str, path: Path) -> Iterator[CertificateStatus]:
    """Check every certificate of a file; yield one with a problem if the file has none."""
    try:
        certificates = load_certificates(path)
    except UsageError as error:
        yield CertificateStatus(name, str(path), problem=str(error))
        return
    for certificate in certificates:
        yield _status(name, str(path), certificate)


def trusted_files(environment: str | None = None, env: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the files with the authorities of a server: CLICKHOUSE_CLOUD_CA_CERT, else those of `tape certs`."""
    if configured := env.get(f"{PREFIX}CA_CERT"):
        return [Path(configured)]
    names = [environment] if environment else environments()
    return [path for path in (CertificateStore(name).path("trusted.pem") for name in names) if path.exists()]


def server_certificate(host: str, port: int, authorities: Sequence[Path] = ()) -> CertificateStatus:
    """Check the certificate that a server presents: expiry, chain up to one of `authorities`, and host name.

    Without `authorities`, the chain has to end at one of the system's. The certificate is first read without
    verification, so that the expiry of an invalid one is reported too. Nothing is sent.
    """
    name, source = "server, over the wire", f"{host}:{port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=WIRE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
        status = _status(name, source, x509.load_der_x509_certificate(der or b""))
        return status if status.problem else replace(status, problem=_chain_problem(host, port, authorities))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        problem = f"The certificate of {source} cannot be read: {reason}."
        return CertificateStatus(name, source, problem=problem)


def _chain_problem(host: str, port: int, authorities: Sequence[Path]) -> str | None:
    """Connect as a client does; return why the certificate is rejected, None if it is accepted."""
    context = ssl.create_default_context()
    if authorities:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for path in authorities:
            context.load_verify_locations(path)
    try:
        with (
            socket.create_connection((host, port), timeout=WIRE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        trusted = ", ".join(map(str, authorities)) or "the system's authorities"
        return f"Clients that trust {trusted} reject it: {error.verify_message.rstrip('.')}."


def _status(name: str, source: str, certificate: x509.Certificate) -> CertificateStatus:
    now = datetime.now(UTC)
    end = certificate.not_valid_after_utc
    problem = None
    if certificate.not_valid_before_utc > now:
        problem = f"It is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}."
    elif end < now:
        problem = f"It expired on {end:%Y-%m-%d}."
    days = (end - now) // timedelta(days=1)
    return CertificateStatus(name, source, certificate.subject.rfc4514_string(), end, days, problem)


def _key_problem(certificate: Path, key: Path) -> str | None:
    """Compare a key file with its certificate; None if they match, or if the certificate itself cannot be read."""
    try:
        public = load_certificates(certificate)[0].public_key()
    except UsageError:
        return None
    try:
        mode = key.stat().st_mode & 0o077
        private = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return f"{key} cannot be read as a private key."
    if private.public_key() != public:
        return f"{key} is not the key of {certificate}."
    return f"{key} can be read by other users; run: chmod 600 {key}" if mode else None
