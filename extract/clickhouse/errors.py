"""What went wrong between us and ClickHouse: one sentence, and whether trying again can help.

Codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as HttpTimeout

from extract.clickhouse.settings import ClickHouseSettings
from extract.clickhouse.tls import explain_rejected_certificate
from extract.errors import FinalError, OutsideError, RetriableError, TapeError, UsageError

UNDEFINED_RELATION_CODES = frozenset({60, 81})  # UNKNOWN_TABLE, UNKNOWN_DATABASE
AUTHENTICATION_CODES = frozenset({192, 193, 194, 516})  # unknown user, wrong or missing password
# The server is busy, full, starting, stopping or cut off from its replicas: the same request may succeed later.
TRANSIENT_CODES = frozenset(
    {
        3,
        23,
        74,
        75,
        76,
        95,
        99,
        101,
        102,
        159,
        160,
        198,
        202,
        203,
        209,
        210,
        225,
        236,
        241,
        242,
        243,
        252,
        254,
        264,
    }
    | {
        265,
        278,
        279,
        285,
        286,
        289,
        298,
        313,
        319,
        335,
        341,
        364,
        373,
        394,
        410,
        415,
        425,
        432,
        439,
        465,
        473,
        518,
    }
    | {519, 574, 586, 595, 630, 643, 668, 671, 683, 700, 726, 734, 745, 755, 999, 1000}
)
TRANSIENT_HTTP_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

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


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and everything it was raised from, urllib3's `reason` included, outermost first."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]


def to_tape_error(error: BaseException, settings: ClickHouseSettings) -> TapeError:
    """The sentence for `error`: UsageError, RetriableError (worth another try) or FinalError. No secret in it."""
    chain = list(exception_chain(error))
    for known in chain:
        if isinstance(known, TapeError):
            return known
    return _tls(chain, settings) or _server(chain, settings) or _network(chain, settings)


def server_code(error: BaseException) -> int | None:
    """ClickHouse's own error code, where the server answered with one."""
    for cause in exception_chain(error):
        if not isinstance(cause, ClickHouseError):
            continue
        if isinstance(code := getattr(cause, "code", None), int):
            return code
        # A result that fails in the middle carries its error as text.
        if match := re.search(r"Code: (\d+)\. DB::Exception", str(cause)):
            return int(match[1])
    return None


def _prefix(settings: ClickHouseSettings) -> str:
    return f"CLICKHOUSE_{settings.mode.upper()}"


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
    text = sentence.format(host=settings.host, port=settings.port, prefix=_prefix(settings))
    return UsageError(text[0].upper() + text[1:])


def _server(chain: list[BaseException], settings: ClickHouseSettings) -> TapeError | None:
    code = server_code(chain[0])
    text = str(chain[0])
    status = int(match[1]) if (match := re.search(r"HTTP status (\d{3})", text)) else None
    if code in AUTHENTICATION_CODES or (code is None and status in (401, 403)):
        return _refused(settings)
    if code is not None:
        kind: type[OutsideError] = RetriableError if code in TRANSIENT_CODES else FinalError
        return kind(f"ClickHouse at {settings.url} answered: {_tidy(text)}")
    if status == 413:
        return FinalError(
            f"{settings.url} takes no request of this size; raise its limit, at our edge TAPE_EDGE_MAX_BODY."
        )
    if status in TRANSIENT_HTTP_STATUSES:
        return RetriableError(
            f"{settings.url} answered with HTTP status {status} instead of ClickHouse's result."
        )
    if status is not None or "Unexpected response" in text:
        prefix = _prefix(settings)
        return UsageError(
            f"What answers at {settings.url} is no ClickHouse{f' (HTTP status {status})' if status else ''}; "
            f"check {prefix}_HOST and {prefix}_PORT."
        )
    return None


def _refused(settings: ClickHouseSettings) -> TapeError:
    prefix = _prefix(settings)
    if settings.client_cert:
        return UsageError(
            f"{settings.url} knows no user by the name of the client certificate in {prefix}_CLIENT_CERT; "
            "take that of a role, from `tape certs`."
        )
    return UsageError(
        f"ClickHouse at {settings.url} refuses user {settings.user!r} with this password; "
        f"check {prefix}_USER and {prefix}_PASSWORD."
    )


def _network(chain: list[BaseException], settings: ClickHouseSettings) -> TapeError:
    prefix = _prefix(settings)
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return RetriableError(
            f"Host name {settings.host} is unknown here; check {prefix}_HOST and the network."
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in chain):
        advice = "start it: make up" if settings.mode == "local" else f"check {prefix}_HOST and {prefix}_PORT"
        return RetriableError(f"ClickHouse at {settings.url} is not up; {advice}.")
    if any(isinstance(cause, TimeoutError | HttpTimeout) for cause in chain):
        return RetriableError(f"ClickHouse at {settings.url} does not answer in time.")
    broken = [cause for cause in chain if isinstance(cause, OSError | HTTPError)]
    if broken:
        # The innermost says it in the plainest words.
        return RetriableError(
            f"The connection to ClickHouse at {settings.url} broke: {_tidy(str(broken[-1]))}"
        )
    return FinalError(
        f"ClickHouse at {settings.url} was asked what the driver cannot: {_tidy(str(chain[0]))}"
    )


def _tidy(text: str) -> str:
    """One line of a message: without the driver's frame, the server's version and the URL."""
    text = re.sub(r"^Error (.*) executing HTTP request attempt \d+ \(\S+\)$", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"^Received ClickHouse exception, code: \d+, server response: ", "", text)
    text = re.sub(r"\s*\(for url [^)]*\)$", "", text)
    text = re.sub(r"\s*\(version [^)]*(\([^)]*\))?\)$", "", text)
    line = " ".join(text.split())
    return f"{line[:400]}…" if len(line) > 400 else line if line.endswith((".", ")")) else f"{line}."
