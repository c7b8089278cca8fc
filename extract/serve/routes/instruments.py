"""Instruments, their prices, trades, candles, funding, settlements, open interest and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from extract.coverage.series import settlement_keys
from extract.serve.coverage import DAY_MS, Proof, combined, iso_ms
from extract.serve.errors import ApiError
from extract.serve.formats import JSON, require_json
from extract.serve.levels import LEVELS, chosen_range
from extract.serve.listing import (
    DAY,
    FROM_TAPE,
    NUMBER,
    SECOND,
    TEXT,
    TIME,
    Column,
    Question,
    answer_list,
    answered,
    etag,
)
from extract.serve.parameters import (
    CurrencyFilter,
    Cursor,
    ExpiryFilter,
    Flag,
    FormatName,
    KindFilter,
    Limit,
    Name,
    Order,
    SettlementFilter,
    Since,
    Until,
    flag,
    time_range,
)
from extract.serve.routes.shared import TheService, TheTimeList, answers, list_answers
from extract.serve.service import InstrumentFacts, Service
from extract.times import bucket_end_ms, sql_time

router = APIRouter(prefix="/v1", tags=["Instruments"])

Level = Literal["1m", "15m", "1h", "4h", "1d", "1w", "1mo"]
Timeframe = Literal["1h", "24h", "7d", "30d", "90d", "1y", "all"]
FundingLevel = Literal["1h", "1d"]


@router.get(
    "/instruments",
    operation_id="listInstruments",
    summary="List instruments",
    responses=list_answers("InstrumentList", "Instruments by name, expired ones too."),
)
async def list_instruments(
    request: Request,
    service: TheService,
    currency: CurrencyFilter = "",
    kind: KindFilter = "",
    settlement_currency: SettlementFilter = "",
    expired: Annotated[Flag | None, Query(description="Only expired ones, or only others.")] = None,
    expiry: ExpiryFilter = None,
    prefix: Annotated[
        str, Query(description="Start of the name.", examples=["BTC-30JAN26"], max_length=100)
    ] = "",
    limit: Limit = 1000,
    cursor: Cursor = None,
    format: FormatName = None,
) -> Response:
    """Every instrument that the exchange has listed or that has trades. `currency` is the underlying coin."""
    parameters = {
        "currency": currency,
        "kind": kind,
        "settlement_currency": settlement_currency,
        "expired": flag(expired),
        "expiry": expiry or "",
        "prefix": prefix,
    }
    question = Question("instruments", parameters, [Column("instrument_name", TEXT)], "instruments")

    async def proof(rows: Sequence[bytes]) -> Proof:
        coverage = await service.coverage.get()
        return coverage.of_streams(coverage.streams(kind=kind) if kind else coverage.spans)

    return await answer_list(
        service, request, question, proof, limit=limit, cursor=cursor, format_name=format
    )


@router.get(
    "/instruments/{name}",
    operation_id="getInstrument",
    summary="Get one instrument",
    responses=answers("InstrumentAnswer", "The instrument.", 404, 422),
)
async def get_instrument(request: Request, service: TheService, name: Name) -> Response:
    """Listing and loaded trades of one instrument."""
    facts = await service.instrument(name)
    proof = await service.proof_of_instrument(facts, 0, await service.as_of_ms(facts))
    return await _one_row(
        service, request, "instrument", name, proof, "unknown_instrument", "is not an instrument"
    )


@router.get(
    "/instruments/{name}/price",
    operation_id="getPrice",
    summary="Get the current price",
    responses=answers(
        "PriceAnswer", "Last trade, and the 24 hours before the newest trade of all instruments.", 404, 422
    ),
)
async def get_price(request: Request, service: TheService, name: Name) -> Response:
    """The last traded price of an instrument that has neither expired nor been delisted."""
    require_json(request.headers.get("accept", ""))
    prices = await service.prices.get()
    if (row := prices.get(name)) is None:
        await service.instrument(name)
        raise ApiError(
            "no_price", f"{name} has no current price: it has expired, was delisted or never traded."
        )
    facts = await service.instrument(name)
    content = with_coverage(row, await _proof_of_day(service, facts))
    return answered(request, content, {"ETag": etag(content)})


@router.get(
    "/instruments/{name}/trades",
    operation_id="listTrades",
    summary="List trades",
    responses=list_answers("TradeList", "Trades by trade_seq.", 404),
)
async def list_trades(
    page: TheTimeList,
    name: Name,
    is_block: Annotated[Flag | None, Query(description="Only block trades, or only others.")] = None,
    is_liquidation: Annotated[Flag | None, Query(description="Only liquidations, or only others.")] = None,
    is_book: Annotated[
        Flag | None, Query(description="Only trades of the order book, or only others.")
    ] = None,
) -> Response:
    """Every trade, in its newest version, paged by its number: trades that are loaded meanwhile shift no page."""
    service = page.service
    facts = await service.instrument(name)
    flags = {"is_block": flag(is_block), "is_liquidation": flag(is_liquidation), "is_book": flag(is_book)}
    question = page.question("trades", {"name": name, **flags}, [Column("trade_seq", NUMBER)], "trades")
    return await page.answer(
        replace(question, ends=lambda: service.seq_ends(name, *page.range_ms)),
        lambda rows: service.proof_of_instrument(facts, *page.range_ms),
    )


@router.get(
    "/instruments/{name}/candles",
    operation_id="listCandles",
    summary="List candles",
    responses=list_answers(
        "CandleList", "Candles by the start of their bucket; only buckets with trades.", 404
    ),
)
async def list_candles(
    request: Request,
    service: TheService,
    name: Name,
    timeframe: Annotated[
        Timeframe | None,
        Query(
            description="Length of time before `until`, by default before the end of the covered time; it chooses the level."
        ),
    ] = None,
    level: Annotated[Level | None, Query(description="Length of a bucket.")] = None,
    since: Since = None,
    until: Until = None,
    order: Order = "asc",
    limit: Limit = 1500,
    cursor: Cursor = None,
    format: FormatName = None,
) -> Response:
    """Open, high, low, close and volumes of the whole tape, and (`book_…`) of the order book alone."""
    facts = await service.instrument(name)
    if timeframe is not None and since is not None:
        raise ApiError("invalid_parameter", "timeframe and since exclude each other: give one of them.")
    end_ms = max(await service.as_of_ms(facts), await service.newest_trade_ms(name))
    given = time_range(since, until, (-1, -1))
    chosen = chosen_range(given, end_ms, level, timeframe)
    question = Question(
        "candles",
        {"name": name, "since": sql_time(chosen.since_ms), "until": sql_time(chosen.until_ms)},
        [Column("bucket_at", SECOND)],
        "ohlcv_1m",
        {"table": LEVELS[chosen.level].table},
        order,
        members=lambda rows: {
            "instrument_name": name,
            "level": chosen.level,
            "since": iso_ms(chosen.since_ms),
            "until": iso_ms(chosen.until_ms),
        },
        headers={"X-Level": chosen.level},
    )

    async def proof(rows: Sequence[bytes]) -> Proof:
        end_ms = bucket_end_ms(chosen.level, chosen.until_ms - 1)  # of the last candle
        return await service.proof_of_instrument(facts, chosen.since_ms, end_ms)

    return await answer_list(
        service, request, question, proof, limit=limit, cursor=cursor, format_name=format
    )


@router.get(
    "/instruments/{name}/funding",
    operation_id="listFunding",
    summary="List funding of a perpetual",
    responses=list_answers("FundingList", "Funding by hour or day; empty for other instruments.", 404),
)
async def list_funding(
    page: TheTimeList,
    name: Name,
    level: Annotated[FundingLevel, Query(description="Hours, or their sums by day.")] = "1h",
) -> Response:
    """What a perpetual charged, as fractions of the position; longs pay a positive one."""
    await page.service.instrument(name)
    key = Column("timestamp", TIME) if level == "1h" else Column("day", DAY)
    question = page.question(f"funding_{level}", {"name": name}, [key])
    return await page.answer_series(question, "funding_rates", [name])


@router.get(
    "/instruments/{name}/settlements",
    operation_id="listSettlements",
    summary="List settlements and deliveries",
    responses=list_answers("SettlementList", "Settlements and deliveries by time.", 404),
)
async def list_settlements(page: TheTimeList, name: Name) -> Response:
    """Profit and loss, positions and prices that the exchange settled for one instrument."""
    facts = await page.service.instrument(name)
    key = [Column("timestamp", TIME), Column("type", TEXT)]
    question = page.question("settlements", {"name": name}, key)
    return await page.answer_series(question, "settlements", settlement_keys(facts.stream))


@router.get(
    "/instruments/{name}/open-interest",
    operation_id="listOpenInterestOfInstrument",
    summary="List open interest of an instrument",
    responses=list_answers("InstrumentOpenInterestList", "Open interest by day, where it was recorded.", 404),
)
async def list_open_interest_of_instrument(page: TheTimeList, name: Name) -> Response:
    """The last open interest of each day, from settlements, else from recorded summaries of the order book."""
    facts = await page.service.instrument(name)
    question = page.question("open_interest", {"name": name}, [Column("day", DAY)], "open_interest_1d")
    return await page.answer_series(question, "settlements", settlement_keys(facts.stream))


@router.get(
    "/instruments/{name}/outcome",
    operation_id="getOutcome",
    summary="Get the outcome of an expired instrument",
    responses=answers("OutcomeAnswer", "Delivery price, payoff and result of the takers.", 404, 422),
)
async def get_outcome(request: Request, service: TheService, name: Name) -> Response:
    """What an option or a future was worth when it expired."""
    facts = await service.instrument(name)
    if facts.stream.kind not in ("option", "future"):
        raise ApiError("no_outcome", f"{name} has no outcome: it is neither an option nor a future.")
    proof = await service.proof_of_instrument(facts, 0, await service.as_of_ms(facts))
    statement = f"{facts.stream.kind}_outcome"
    return await _one_row(service, request, statement, name, proof, "no_outcome", "has not expired")


class PriceBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a request for several prices."""

    instruments: list[str]


MAX_BATCH = 100
MAX_BODY_BYTES = 50_000
_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PriceBatch"}}},
}


@router.post(
    "/prices/batch",
    operation_id="getPrices",
    summary="Get several current prices",
    responses=answers(
        "PriceList", "Prices in the order of the request, and the names without one.", 413, 415, 422
    ),
    openapi_extra={"requestBody": _BODY},
)
async def get_prices(request: Request, service: TheService) -> Response:
    """Current prices of 1 to 100 instruments. A name that is repeated is answered each time."""
    require_json(request.headers.get("accept", ""))
    names = await _batch_names(request)
    prices = await service.prices.get()
    priced = [name for name in dict.fromkeys(names) if name in prices]
    proof = combined([await _proof_of_day(service, await service.instrument(name)) for name in priced])
    body = b",".join(prices[name] for name in names if name in prices)
    members = {
        "not_found": [name for name in dict.fromkeys(names) if name not in prices],
        "next_cursor": None,
        "coverage": proof.to_json(),
    }
    content = b'{"items":[' + body + b"]," + msgspec.json.encode(members)[1:]
    return Response(
        content, headers={"Cache-Control": FROM_TAPE, "ETag": etag(content)}, media_type=JSON.media_type
    )


async def _batch_names(request: Request) -> list[str]:
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise ApiError("unsupported_media_type", "The body has to be application/json.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError("too_large", f"The body is larger than {MAX_BODY_BYTES:,} bytes.")
    try:
        names = msgspec.json.decode(body, type=PriceBatch).instruments
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ApiError("invalid_body", f'The body is not {{"instruments": ["NAME", …]}}: {error}.') from None
    if not 1 <= len(names) <= MAX_BATCH:
        raise ApiError(
            "invalid_body", f"A batch has 1 to {MAX_BATCH} instruments; this one has {len(names):,}."
        )
    return names


def with_coverage(row: bytes, proof: Proof) -> bytes:
    """A row of ClickHouse with the member `coverage`."""
    return row[:-1] + b',"coverage":' + msgspec.json.encode(proof.to_json()) + b"}"


async def _proof_of_day(service: Service, facts: InstrumentFacts) -> Proof:
    """Proof of the last 24 hours of covered time."""
    end_ms = await service.as_of_ms(facts)
    return await service.proof_of_instrument(facts, max(0, end_ms - DAY_MS), end_ms)


async def _one_row(
    service: Service, request: Request, statement: str, name: str, proof: Proof, code: str, why: str
) -> Response:
    require_json(request.headers.get("accept", ""))
    row = (await service.reader.formatted(JSON, statement, {"name": name})).strip()
    if not row:
        raise ApiError(code, f"{name} {why}.")
    content = with_coverage(row, proof)
    return answered(request, content, {"ETag": etag(content)})
