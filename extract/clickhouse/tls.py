"""Certificates: wrong files are named before a connection is tried, a refusal in the handshake is found out after."""

from __future__ import annotations

import os
import socket
import ssl

from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError

PROBE_TIMEOUT_S = 3


def check_certificate_files(settings: ClickHouseSettings) -> None:
    """Load the CA, certificate and key once. Raises UsageError that names the variable of a wrong one."""
    if not settings.secure:
        return
    prefix = f"CLICKHOUSE_{settings.mode.upper()}"
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
            f"{prefix}_CLIENT_CERT and {prefix}_CLIENT_KEY are no certificate and its key; check both files."
        ) from None


def refusal(settings: ClickHouseSettings) -> ssl.SSLError | None:
    """What the server says about our client certificate, if it refuses it.

    In TLS 1.3 a server says so after the handshake. Whoever writes first, as HTTP does, may meet a broken
    connection before the reason; this listens without writing.
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


def _load_client_certificate(context: ssl.SSLContext, settings: ClickHouseSettings) -> None:
    if settings.client_cert:
        context.load_cert_chain(settings.client_cert, settings.client_key)
