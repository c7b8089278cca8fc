"""State of the database and of the load: health, coverage, gaps, progress of the backfill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from extract.deribit.streams import Stream
from extract.errors import UsageError
from extract.serve.coverage import (
    DAY_MS,
    NOTHING_COVERED,
    Hole,
    Proof,
    TradeCoverage,
    day_ms,
    days_between,
    iso_ms,
)
from extract.serve.cursor import decode_cursor, encode_cursor, question_digest
from extract.serve.errors import ApiError, NotLoadedError
from extract.serve.formats import require_json
from extract.serve.listing import answered, etag
from extract.serve.parameters import (
    CurrencyFilter,
    Cursor,
    Flag,
    KindFilter,
    Since,
    Until,
    time_ms,
    time_range,
)
from extract.serve.progress import stream_progress, total_progress
from extract.serve.routes.shared import TheService, answers, errors
from extract.times import parse_day

public = APIRouter(tags=["Operation"])
"""Routes that need no key."""
router = APIRouter(prefix="/v1", tags=["Operation"])

NO_STORE = "no-store"
MAX_DAYS = 400
GAPS_LIMIT = 10_000


@public.get(
    "/health",
    operation_id="getHealth",
    summary="Check the server",
    responses={
        200: {
            "description": "The server and its database answer.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Health"}}},
        },
        **errors(),
    },
    openapi_extra={"security": []},
)
async def get_health(request: Request, service: TheService) -> Response:
    """Whether the database answers; needs no key. `as_of` is null before anything is loaded."""
    require_json(request.headers.get("accept", ""))
    [server] = await service.reader.rows("server")
    as_of = None
    with suppress(NotLoadedError):
        coverage = await service.coverage.get()
        as_of = coverage.of_streams(coverage.spans).as_of_ms
    content = {
        "status": "ok",
        "clickhouse": server["version"],
        "mode": service.settings.mode,
        "as_of": None if as_of is None else iso_ms(as_of),
    }
    return _json(request, content, cache=NO_STORE)


@router.get(
    "/health",
    operation_id="listChecks",
    summary="Run the health checks",
    responses=answers("CheckList", "The checks of `tape health`, at most a minute old.", 422),
)
async def list_checks(request: Request, service: TheService) -> Response:
    """Lag, gaps, series, models, push, certificates and disk, with their state."""
    require_json(request.headers.get("accept", ""))
    checks = await service.health.get()
    return _json(request, {"items": checks, "next_cursor": None}, cache=NO_STORE)


@router.get(
    "/backfill/status",
    operation_id="getBackfillStatus",
    summary="Get the progress of the backfill",
    responses=answers("BackfillStatus", "Progress of all streams together, and of each.", 422),
)
async def get_backfill_status(request: Request, service: TheService) -> Response:
    """How far history is loaded, how much of it is proven, how fast it grows, and when it will be complete."""
    require_json(request.headers.get("accept", ""))
    rows, coverage = await service.progress.get(), await service.coverage.get()
    items = [stream_progress(row) for row in rows]
    content = {
        **total_progress(items),
        "items": items,
        "next_cursor": None,
        "coverage": coverage.of_streams(coverage.spans).to_json(),
    }
    return _json(request, content)


@router.get(
    "/coverage",
    operation_id="getCoverage",
    summary="Get covered time by stream, and a calendar",
    responses=answers("CoverageList", "Streams; with their days where a range of days is given.", 422),
)
async def get_coverage(
    request: Request,
    service: TheService,
    currency: CurrencyFilter = "",
    kind: KindFilter = "",
    since: Since = None,
    until: Until = None,
) -> Response:
    """What is loaded and proven of each currency and kind. `since` and `until` add a state for each UTC day between them."""
    require_json(request.headers.get("accept", ""))
    coverage, progress = await service.coverage.get(), await service.progress.get()
    streams = coverage.streams(currency.upper(), kind)
    days = _days(since, until, coverage, streams)
    rows = {Stream(row["currency"], row["kind"]): row for row in progress}
    now_ms = round(datetime.now(UTC).timestamp() * 1000)
    items = [_stream_item(coverage, stream, rows.get(stream, {}), now_ms, days) for stream in streams]
    proof = coverage.of_streams(streams) if streams else NOTHING_COVERED
    return _json(request, {"items": items, "next_cursor": None, "coverage": proof.to_json()})


@router.get(
    "/gaps",
    operation_id="listGaps",
    summary="List missing trades",
    responses=answers("GapList", "Ranges of missing trade numbers by instrument and number.", 422),
)
async def list_gaps(
    request: Request,
    service: TheService,
    currency: CurrencyFilter = "",
    kind: KindFilter = "",
    instrument: Annotated[str, Query(description="Only this instrument.", max_length=200)] = "",
    since: Since = None,
    until: Until = None,
    day: Annotated[
        str | None,
        Query(description="Only this UTC day, instead of `since` and `until`.", examples=["2026-01-03"]),
    ] = None,
    known_absent: Annotated[
        Flag | None, Query(description="Only what the exchange lacks, or only others.")
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=GAPS_LIMIT, description="Rows of an answer.", examples=[1000])
    ] = 1000,
    cursor: Cursor = None,
) -> Response:
    """What is missing in covered time, as `tape gaps` lists it, with the times of the trades before and after."""
    require_json(request.headers.get("accept", ""))
    since_ms, until_ms = _gap_range(since, until, day)
    coverage = await service.coverage.get()
    wanted = None if known_absent is None else known_absent == "true"
    holes = [
        hole
        for hole in (coverage.by_instrument.get(instrument, ()) if instrument else coverage.holes)
        if (not currency or hole.stream.currency == currency.upper())
        and (not kind or hole.stream.kind == kind)
        and (wanted is None or hole.is_absent == wanted)
        and hole.overlaps(since_ms, until_ms)
    ]
    asked = {name: value for name, value in request.query_params.items() if name not in ("cursor", "limit")}
    page, next_cursor = _page_of(holes, question_digest(request.url.path, asked), limit, cursor)
    proof = await _gap_proof(service, coverage, currency.upper(), kind, instrument, since_ms, until_ms)
    items = [hole.row for hole in page]
    return _json(request, {"items": items, "next_cursor": next_cursor, "coverage": proof.to_json()})


async def _gap_proof(
    service: Any,
    coverage: TradeCoverage,
    currency: str,
    kind: str,
    instrument: str,
    since_ms: int,
    until_ms: int,
) -> Proof:
    if instrument:
        facts = await service.instrument(instrument)
        proof: Proof = await service.proof_of_instrument(facts, since_ms, until_ms)
        return proof
    streams = coverage.streams(currency, kind)
    return coverage.of_streams(streams, since_ms or None, until_ms) if streams else NOTHING_COVERED


def _gap_range(since: str | None, until: str | None, day: str | None) -> tuple[int, int]:
    if day is None:
        return time_range(since, until)
    if since is not None or until is not None:
        raise ApiError("invalid_parameter", "day excludes since and until: give one or the other.")
    start_ms = day_ms(_day(day, "day"))
    return start_ms, start_ms + DAY_MS


def _page_of(
    holes: Sequence[Hole], digest: str, limit: int, cursor: str | None
) -> tuple[Sequence[Hole], str | None]:
    """A page of holes, which are ordered by name and number."""
    if cursor is not None:
        name, number = decode_cursor(cursor, digest, 2)
        if not number.isdecimal():
            raise ApiError("invalid_cursor", "The cursor is not one that this API returned.")
        after = (name, int(number))
        holes = [hole for hole in holes if (hole.instrument_name, hole.row["first_missing_seq"]) > after]
    page = holes[:limit]
    if len(holes) <= limit:
        return page, None
    return page, encode_cursor(digest, [page[-1].instrument_name, str(page[-1].row["first_missing_seq"])])


def _days(
    since: str | None, until: str | None, coverage: TradeCoverage, streams: Iterable[Stream]
) -> list[date]:
    """The days of a calendar, none if neither end is given. An end that is not given is that of the covered time."""
    if since is None and until is None:
        return []
    spans = [span for stream in streams for span in coverage.spans[stream]]
    first_ms = time_ms(since, "since", min((start for start, _ in spans), default=0))
    last_ms = time_ms(until, "until", max((end for _, end in spans), default=first_ms + 1))
    if first_ms >= last_ms:
        raise ApiError("invalid_parameter", f"until {until!r} is not after since {since!r}.")
    first, last = (datetime.fromtimestamp(at_ms / 1000, UTC).date() for at_ms in (first_ms, last_ms - 1))
    if (count := (last - first).days + 1) > MAX_DAYS:
        raise ApiError(
            "invalid_parameter",
            f"A calendar has at most {MAX_DAYS} days, not {count:,}: give since and until.",
        )
    return days_between(first, last)


def _stream_item(
    coverage: TradeCoverage, stream: Stream, row: Mapping[str, Any], now_ms: int, days: Sequence[date]
) -> dict[str, Any]:
    spans = coverage.spans[stream]
    item = {
        "currency": stream.currency,
        "kind": stream.kind,
        "trades": row.get("trades", 0),
        "instruments": row.get("instruments", 0),
        "covered_from": iso_ms(spans[0][0]),
        "covered_to": iso_ms(spans[-1][1]),
        "missing": row.get("missing", 0),
        "absent": row.get("absent", 0),
        "proven_share": row.get("proven_share", 1.0),
        "lag_seconds": max(0, round((now_ms - spans[-1][1]) / 1000)),
        "last_load_at": row.get("last_load_at"),
        "spans": [{"from": iso_ms(start), "to": iso_ms(end)} for start, end in spans],
    }
    return item | ({"days": list(coverage.calendar(stream, days))} if days else {})


def _day(text: str, name: str) -> date:
    try:
        day = parse_day(text, name)
    except UsageError as error:
        raise ApiError("invalid_parameter", str(error)) from None
    if not 1970 <= day.year < 2300:
        raise ApiError("invalid_parameter", f"{name} {text!r} is not a day from 1970 to 2299.")
    return day


def _json(request: Request, content: Mapping[str, Any], cache: str | None = None) -> Response:
    body = msgspec.json.encode(content)
    if cache:
        return answered(request, body, {}, cache)
    return answered(request, body, {"ETag": etag(body)})
