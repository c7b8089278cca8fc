"""Volatility of an underlying, and the series that belong to a currency or an index."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from extract.serve.coverage import Proof
from extract.serve.levels import HOUR_MS
from extract.serve.listing import DAY, TEXT, TIME, Column, Question, answer_list
from extract.serve.parameters import (
    At,
    Currency,
    ExpiryFilter,
    FormatName,
    SettlementFilter,
    time_ms,
)
from extract.serve.routes.shared import TheService, TheTimeList, list_answers
from extract.serve.service import Service
from extract.times import sql_time

router = APIRouter(prefix="/v1", tags=["Volatility and series"])

LOOKBACK_MS = 48 * HOUR_MS
"""How far before `at` an hour with rows is searched for."""
DVOL_KEY = "{} 3600"
_TABLES = {"smile": "iv_smile_1h", "term_structure": "iv_tenors_1h", "chain": "option_chain_1h"}


@router.get(
    "/volatility/{currency}/smile",
    operation_id="getSmile",
    summary="Get the volatility smile",
    responses=list_answers("SmileAnswer", "Implied volatility by expiry and delta, of one hour.", 404),
)
async def get_smile(
    request: Request,
    service: TheService,
    currency: Currency,
    at: At = None,
    settlement_currency: SettlementFilter = "",
    expiry: ExpiryFilter = None,
    format: FormatName = None,
) -> Response:
    """The newest hour with trades at or before `at`, at most two days before it; by default the newest of 40 days."""
    return await _hour(service, request, "smile", currency, at, settlement_currency, expiry or "", format)


@router.get(
    "/volatility/{currency}/term-structure",
    operation_id="getTermStructure",
    summary="Get the term structure of volatility",
    responses=list_answers(
        "TermStructureAnswer", "Implied volatility by constant maturity, of one hour.", 404
    ),
)
async def get_term_structure(
    request: Request,
    service: TheService,
    currency: Currency,
    at: At = None,
    settlement_currency: SettlementFilter = "",
    format: FormatName = None,
) -> Response:
    """The newest hour with trades at or before `at`, at most two days before it; by default the newest of 40 days."""
    return await _hour(service, request, "term_structure", currency, at, settlement_currency, None, format)


@router.get(
    "/volatility/{currency}/chain",
    operation_id="getOptionChain",
    summary="Get the option chain",
    responses=list_answers(
        "ChainAnswer", "Last price, volatility and Greeks of each live option, of one hour.", 404
    ),
)
async def get_chain(
    request: Request,
    service: TheService,
    currency: Currency,
    at: At = None,
    settlement_currency: SettlementFilter = "",
    expiry: ExpiryFilter = None,
    format: FormatName = None,
) -> Response:
    """The newest hour at or before `at`, at most two days before it; by default the newest of 40 days."""
    return await _hour(service, request, "chain", currency, at, settlement_currency, expiry or "", format)


@router.get(
    "/volatility/{currency}/dvol",
    operation_id="listVolatilityIndex",
    summary="List DVOL",
    responses=list_answers("VolatilityIndexList", "Hourly candles of the exchange's volatility index.", 404),
)
async def list_dvol(page: TheTimeList, currency: Currency) -> Response:
    """The volatility index in percent; empty for a currency without one."""
    await page.service.require_underlying(currency)
    question = page.question("dvol", {"currency": currency}, [Column("timestamp", TIME)])
    return await page.answer_series(question, "volatility_index", [DVOL_KEY.format(currency)])


@router.get(
    "/deliveries/{index}",
    operation_id="listDeliveries",
    summary="List delivery prices of an index",
    responses=list_answers("DeliveryList", "Delivery prices by day.", 404),
)
async def list_deliveries(
    page: TheTimeList,
    index: Annotated[
        str, Path(description="Name of the index.", examples=["btc_usd"], pattern=r"^[A-Za-z0-9_]{1,40}$")
    ],
) -> Response:
    """The prices at which instruments of an index expired."""
    await page.service.require_index(index)
    question = page.question("deliveries", {"index": index}, [Column("date", DAY)])
    return await page.answer_series(question, "delivery_prices", [index])


@router.get(
    "/open-interest/{currency}",
    operation_id="listOpenInterest",
    summary="List open interest of an underlying",
    responses=list_answers(
        "OpenInterestList", "Sums over instruments by day, settlement currency and kind.", 404
    ),
)
async def list_open_interest(page: TheTimeList, currency: Currency) -> Response:
    """Open interest where it was recorded: of inverse futures in USD, of all others in coin."""
    await page.service.require_underlying(currency)
    key = [Column("day", DAY), Column("settlement_currency", TEXT), Column("kind", TEXT)]
    question = page.question("open_interest_of_currency", {"currency": currency}, key)
    keys = await page.service.settlement_keys(currency)
    return await page.answer_series(question, "settlements", keys)


@router.get(
    "/outcomes/{currency}",
    operation_id="listOutcomes",
    summary="List outcomes of expired options",
    responses=list_answers("OutcomeList", "Outcomes by expiry and name.", 404),
)
async def list_outcomes(page: TheTimeList, currency: Currency) -> Response:
    """Delivery price, payoff and result of the takers of each option that has expired."""
    await page.service.require_underlying(currency)
    key = [Column("expires_at", TIME), Column("instrument_name", TEXT)]
    question = page.question("outcomes", {"currency": currency}, key)
    return await page.answer(question, lambda rows: page.service.proof_of_outcomes(currency, *page.range_ms))


class _Hour(msgspec.Struct):
    bucket_at: str


def _hour_of(rows: Sequence[bytes]) -> str | None:
    return msgspec.json.decode(rows[0], type=_Hour).bucket_at if rows else None


async def _hour(
    service: Service,
    request: Request,
    statement: str,
    currency: str,
    at: str | None,
    settlement_currency: str,
    expiry: str | None,
    format_name: str | None,
) -> Response:
    """The newest hour of a view at or before `at`."""
    await service.require_underlying(currency)
    table = _TABLES[statement]
    at_ms = time_ms(at, "at", time.time_ns() // 1_000_000)
    if at is None:
        at_ms = await service.newest_hour_ms(table, currency) or at_ms
    hour_ms = at_ms - at_ms % HOUR_MS
    parameters: dict[str, Any] = {
        "currency": currency,
        "settlement_currency": settlement_currency,
        "at": sql_time(hour_ms)[:19],
    }
    if expiry is not None:
        parameters["expiry"] = expiry
    question = Question(statement, parameters, table=table, members=lambda rows: {"at": _hour_of(rows)})

    async def proof(rows: Sequence[bytes]) -> Proof:
        hour = _hour_of(rows)
        first_ms = hour_ms - LOOKBACK_MS if hour is None else time_ms(hour, "at", 0)
        return await service.proof_of_options(currency, first_ms, hour_ms + HOUR_MS)

    return await answer_list(service, request, question, proof, format_name=format_name)
