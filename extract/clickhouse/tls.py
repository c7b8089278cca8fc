"""Check certificate files before connecting, and explain why a server rejected a client certificate.

The TLS alert of a server only reports that it rejects a certificate; the reason is read from the certificate itself.
"""

from __future__ import annotations

import os
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError

PROBE_TIMEOUT_S = 3


def check_certificate_files(settings: ClickHouseSettings) -> None:
    """Load the CA, certificate and key once. Raises UsageError that names the variable of a wrong one."""
    if not settings.secure:
        return
    prefix = settings.env_prefix
    for name, path in (
        ("CA_CERT", settings.ca_cert),
        ("CLIENT_CERT", settings.client_cert),
        ("CLIENT_KEY", settings.client_key),
    ):
        if path and not os.access(path, os.R_OK):
            raise UsageError(f"{prefix}_{name} names {path}, which cannot be read.")
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert)
    except ssl.SSLError:
        raise UsageError(f"{prefix}_CA_CERT names {settings.ca_cert}, which holds no certificate.") from None
    try:
        _load_client_certificate(context, settings)
    except ssl.SSLError:
        raise UsageError(
            f"{prefix}_CLIENT_CERT and {prefix}_CLIENT_KEY are not a certificate and its key; check both files."
        ) from None


def handshake_error(settings: ClickHouseSettings) -> ssl.SSLError | None:
    """Connect once and return the TLS error of the server, or None if it accepts the client certificate.

    In TLS 1.3 a server rejects a certificate after the handshake. A client that writes first, such as an HTTP client,
    may get a broken connection before the alert; this function reads without writing.
    """
    if not settings.secure:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert)
        _load_client_certificate(context, settings)
        address = (settings.host, settings.port)
        with (
            socket.create_connection(address, timeout=PROBE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=settings.host) as secured,
        ):
            secured.recv(1)
    except ssl.SSLError as error:
        return error
    except OSError:
        return None
    return None


def explain_rejected_certificate(settings: ClickHouseSettings) -> str:
    """Return the reason for which the server rejects the client certificate, as one sentence."""
    prefix = settings.env_prefix
    if not settings.client_cert:
        return f"{settings.host} requires a client certificate; set {prefix}_CLIENT_CERT and {prefix}_CLIENT_KEY."
    return f"The client certificate in {prefix}_CLIENT_CERT {_certificate_problem(settings, settings.client_cert)}"


def _certificate_problem(settings: ClickHouseSettings, path: str) -> str:
    # Imported here, so that commands start faster.
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    from extract.certs.authority import is_signed_by, same_environment
    from extract.certs.store import load_certificates

    certificate = load_certificates(Path(path))[0]
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < datetime.now(UTC):
        return f"expired on {end:%Y-%m-%d}; get a new one: tape certs issue ROLE"
    if begin > datetime.now(UTC):
        return f"is not valid before {begin:%Y-%m-%d %H:%M} UTC; check the clocks of both machines."
    purposes = [
        each.value for each in certificate.extensions if isinstance(each.value, x509.ExtendedKeyUsage)
    ]
    if purposes and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes[0]:
        return "is not a client certificate; use the one of a role."
    trusted = load_certificates(Path(settings.ca_cert)) if settings.ca_cert else []
    if any(
        is_signed_by(certificate, each) or same_environment(certificate.issuer, each.subject)
        for each in trusted
    ):
        return f"was revoked: {settings.host} has changed its authority since; get a new one: tape certs issue ROLE"
    problem = "is from another authority" if trusted else "is from another authority or was revoked"
    return (
        f"{problem}: {settings.host} does not trust {certificate.issuer.rfc4514_string()}, which signed it."
    )


def _load_client_certificate(context: ssl.SSLContext, settings: ClickHouseSettings) -> None:
    if settings.client_cert:
        context.load_cert_chain(settings.client_cert, settings.client_key)
