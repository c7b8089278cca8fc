"""Map errors of ClickHouse, the driver and the network to TapeErrors of one sentence."""

from __future__ import annotations

import re
import socket
import ssl
import tomllib
from pathlib import Path

from clickhouse_connect.driver.exceptions import ClickHouseError, StreamFailureError
from urllib3.exceptions import HTTPError, ProxyError
from urllib3.exceptions import TimeoutError as HttpTimeout

from extract.clickhouse.settings import ClickHouseSettings
from extract.clickhouse.tls import explain_rejected_certificate
from extract.errors import FinalError, OutsideError, RetriableError, TapeError, UsageError, exception_chain
from extract.proxies import find_proxy

_CODES: dict[str, dict[str, int]] = tomllib.loads(Path(__file__).with_name("error_codes.toml").read_text())
AUTHENTICATION_CODES = frozenset(_CODES["authentication"].values())
TRANSIENT_CODES = frozenset(_CODES["transient"].values())
_UNDEFINED_RELATION_CODES = frozenset(_CODES["undefined_relation"].values())
ACCESS_DENIED = 497
_TOO_MANY_PARTITIONS = "Too many partitions for single INSERT block"
"""Has the code of too many parts, which are merged after a while, but every attempt of the insert ends with it."""
TRANSIENT_HTTP_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

DRIVER_ERRORS = (ClickHouseError, HTTPError, OSError)
"""Exceptions that the driver raises for a failure of the server, the network or the statement."""

_VERIFY_SENTENCES = {
    10: "the certificate of {host} has expired; renew it on the server.",
    62: "the certificate at {host} is for another host name; check {prefix}_HOST.",
    64: "the certificate at {host} is for another host name; check {prefix}_HOST.",
    9: "the certificate of {host} is not valid yet; check the clocks of both machines.",
}
_UNKNOWN_AUTHORITY = (
    "the certificate of {host} is signed by an unknown authority; name its CA in {prefix}_CA_CERT."
)
_NO_TLS = "port {port} of {host} does not speak TLS; check {prefix}_PORT."


class UndefinedRelationError(FinalError):
    """The statement names a table or a database that does not exist."""


def to_tape_error(error: BaseException, settings: ClickHouseSettings) -> TapeError:
    """The UsageError, RetriableError or FinalError for `error`: one sentence, without secrets."""
    chain = list(exception_chain(error))
    # The answer of the server is not about an error that came before it.
    if not isinstance(getattr(error, "code", None), int):
        for known in chain:
            if isinstance(known, TapeError):
                return known
    return _tls(chain, settings) or _server(chain, settings) or _network(chain, settings)


def server_code(error: BaseException) -> int | None:
    """The error code that the server returned, or None. Works on the TapeErrors of `to_tape_error`, too."""
    for cause in exception_chain(error):
        if not isinstance(cause, ClickHouseError):
            continue
        if isinstance(code := getattr(cause, "code", None), int):
            return code
        # An error in the middle of a result arrives as text.
        if match := re.search(r"Code: (\d+)\. DB::Exception", str(cause)):
            return int(match[1])
    return None


def _tls(chain: list[BaseException], settings: ClickHouseSettings) -> TapeError | None:
    failure = next((cause for cause in chain if isinstance(cause, ssl.SSLError)), None)
    if failure is None:
        return None
    if isinstance(failure, ssl.SSLCertVerificationError):
        sentence = _VERIFY_SENTENCES.get(failure.verify_code, _UNKNOWN_AUTHORITY)
    elif "ALERT" in str(failure.reason):
        return UsageError(explain_rejected_certificate(settings))
    elif failure.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        sentence = _NO_TLS
    else:
        return RetriableError(
            f"The TLS connection to {settings.url} broke: {failure.reason or 'no reason given'}."
        )
    text = sentence.format(host=settings.host, port=settings.port, prefix=settings.env_prefix)
    return UsageError(text[0].upper() + text[1:])


def _server(chain: list[BaseException], settings: ClickHouseSettings) -> TapeError | None:
    code = server_code(chain[0])
    text = str(chain[0])
    status = int(match[1]) if (match := re.search(r"HTTP status (\d{3})", text)) else None
    if code in AUTHENTICATION_CODES or (code is None and status in (401, 403)):
        return _login_error(settings)
    if code is not None:
        kind: type[OutsideError] = FinalError
        if code in TRANSIENT_CODES and _TOO_MANY_PARTITIONS not in text:
            kind = RetriableError
        elif code in _UNDEFINED_RELATION_CODES:
            kind = UndefinedRelationError
        return kind(f"ClickHouse at {settings.url} answered: {_to_one_line(text)}")
    if status == 413:
        return FinalError(
            f"{settings.url} rejects a request of this size; raise its limit (the project's edge: TAPE_EDGE_MAX_BODY)."
        )
    if status in TRANSIENT_HTTP_STATUSES:
        return RetriableError(
            f"{settings.url} answered with HTTP status {status} instead of ClickHouse's result."
        )
    if status is not None or "Unexpected response" in text:
        prefix = settings.env_prefix
        return UsageError(
            f"The server at {settings.url} is not ClickHouse{f' (HTTP status {status})' if status else ''}; "
            f"check {prefix}_HOST and {prefix}_PORT."
        )
    return None


def _login_error(settings: ClickHouseSettings) -> TapeError:
    prefix = settings.env_prefix
    if settings.client_cert:
        return UsageError(
            f"{settings.url} has no user with the name of the client certificate in {prefix}_CLIENT_CERT; "
            "use the certificate of a role, from `tape certs`."
        )
    return UsageError(
        f"ClickHouse at {settings.url} rejects user {settings.user!r} with this password; "
        f"check {prefix}_USER and {prefix}_PASSWORD."
    )


def _network(chain: list[BaseException], settings: ClickHouseSettings) -> TapeError:
    prefix = settings.env_prefix
    if any(isinstance(cause, ProxyError) for cause in chain) and (proxy := find_proxy(settings.url)):
        return proxy.failure(chain)
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return RetriableError(
            f"Host name {settings.host} cannot be resolved; check {prefix}_HOST and the network."
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in chain):
        advice = "start it: make up" if settings.mode == "local" else f"check {prefix}_HOST and {prefix}_PORT"
        return RetriableError(f"ClickHouse at {settings.url} is not running; {advice}.")
    if any(isinstance(cause, TimeoutError | HttpTimeout) for cause in chain):
        return RetriableError(f"ClickHouse at {settings.url} did not respond in time.")
    broken = [cause for cause in chain if isinstance(cause, OSError | HTTPError | StreamFailureError)]
    if broken:
        # The innermost message is the plainest one.
        return RetriableError(
            f"The connection to ClickHouse at {settings.url} broke: {_to_one_line(str(broken[-1]))}"
        )
    return FinalError(
        f"The ClickHouse driver failed on a request to {settings.url}: {_to_one_line(str(chain[0]))}"
    )


def _to_one_line(text: str) -> str:
    """A message as one line, without the driver's prefix, the server's version and the URL."""
    text = re.sub(r"^Error (.*) executing HTTP request attempt \d+ \(\S+\)$", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"^Received ClickHouse exception, code: \d+, server response: ", "", text)
    text = re.sub(r"\s*\(for url [^)]*\)$", "", text)
    text = re.sub(r"\s*\(version [^)]*(\([^)]*\))?\)$", "", text)
    line = " ".join(text.split())
    return f"{line[:400]}…" if len(line) > 400 else line if line.endswith((".", ")")) else f"{line}."
