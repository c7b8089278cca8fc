"""The OpenAPI document, with components made from tables.toml, and a page that shows it without a script."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from extract.serve.errors import STATUSES
from extract.serve.tables import table_columns

Schema = dict[str, Any]

_TYPES: Mapping[str, Schema] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "flag": {"type": "boolean"},
    "decimal": {"type": "string", "pattern": r"^-?(\d+(\.\d+)?(e[+-]?\d+)?|inf|nan)$"},
    "number": {"type": "number"},
    "time": {"type": "string", "format": "date-time"},
    "second": {"type": "string", "format": "date-time"},
    "day": {"type": "string", "format": "date"},
}
_ROWS = {
    "Trade": "trades",
    "Candle": "ohlcv_1m",
    "Instrument": "instruments",
    "Price": "current_prices",
    "FundingHour": "funding_1h",
    "FundingDay": "funding_1d",
    "Settlement": "settlements",
    "InstrumentOpenInterest": "open_interest_1d",
    "OptionOutcome": "option_outcomes",
    "FutureOutcome": "futures_outcomes",
    "SmilePoint": "iv_smile_1h",
    "Tenor": "iv_tenors_1h",
    "ChainOption": "option_chain_1h",
    "VolatilityIndexHour": "volatility_index_1h",
    "Delivery": "delivery_prices",
}
"""Component schema by table."""

_AT = {"at": ["time?", "Hour of the answer, null without one."]}
_CANDLE_RANGE = {
    "instrument_name": ["text", "Name of the instrument."],
    "level": ["text", "Length of a bucket."],
    "since": ["time", "Start of the time, included."],
    "until": ["time", "End of the time, excluded."],
}
_LISTS: Mapping[str, tuple[tuple[str, ...], Mapping[str, list[str]]]] = {
    "InstrumentList": (("Instrument",), {}),
    "TradeList": (("Trade",), {}),
    "CandleList": (("Candle",), _CANDLE_RANGE),
    "FundingList": (("FundingHour", "FundingDay"), {}),
    "SettlementList": (("Settlement",), {}),
    "InstrumentOpenInterestList": (("InstrumentOpenInterest",), {}),
    "OpenInterestList": (("OpenInterest",), {}),
    "SmileAnswer": (("SmilePoint",), _AT),
    "TermStructureAnswer": (("Tenor",), _AT),
    "ChainAnswer": (("ChainOption",), _AT),
    "VolatilityIndexList": (("VolatilityIndexHour",), {}),
    "DeliveryList": (("Delivery",), {}),
    "OutcomeList": (("OptionOutcome",), {}),
    "GapList": (("Gap",), {}),
    "CoverageList": (("StreamCoverage",), {}),
}
_PROGRESS = {
    "status": ["text", "error, running, paused or completed."],
    "percent": ["number", "Covered share of the time from started_from to target, in percent."],
    "started_from": ["time?", "Start of the covered time."],
    "current": ["time?", "History is loaded without a break from started_from up to here."],
    "target": ["time?", "The newest load."],
    "last_push_at": ["time?", "When a push to cloud was last proven."],
    "last_load_at": ["time?", "The newest load of the stream."],
    "trades": ["integer", "Loaded trades."],
    "missing": ["integer", "Trades that are missing and that the exchange may have."],
    "absent": ["integer", "Trades that the exchange does not have."],
    "proven_share": ["number", "Share of the requested trade numbers that are loaded or absent, 0 to 1."],
    "trades_per_second": ["number?", "Rate of the last ten minutes; null unless running."],
    "seconds_left": [
        "number?",
        "Time to the target at the rate of the last ten minutes; null unless running.",
    ],
}
_STREAM = {"currency": ["text", "Currency of the stream."], "kind": ["text", "Kind of the stream."]}
_OBJECTS: Mapping[str, Mapping[str, list[str]]] = {
    "Error": {
        "code": ["text", "What went wrong, for a program."],
        "message": ["text", "The same in one sentence."],
    },
    "Coverage": {
        "proven": [
            "flag",
            "Whether all of the requested time up to as_of is loaded, except what the exchange lacks.",
        ],
        "missing": ["integer", "Trade numbers or rows that are neither loaded nor known to be absent."],
        "absent": ["integer", "Those that the exchange does not have."],
        "as_of": ["time?", "End of the covered time; null if nothing is covered."],
    },
    "Health": {
        "status": ["text", "ok"],
        "clickhouse": ["text", "Version of the database."],
        "mode": ["text", "local or cloud."],
        "as_of": ["time?", "Earliest end of the covered time of all streams."],
    },
    "Check": {
        "check": ["text", "Name of the check."],
        "state": ["text", "ok, warn, unknown or alarm."],
        "value": ["number?", "What was measured; null if it cannot be."],
        "unit": ["text", "Unit of the value."],
        "text": ["text", "The result in one sentence."],
    },
    "StreamProgress": {
        **_STREAM,
        **_PROGRESS,
        "earliest_at": ["time?", "Time of the first loaded trade."],
        "newest_at": ["time?", "Time of the last loaded trade."],
        "updated_at": ["time", "When these figures last changed."],
    },
    "Gap": {
        "instrument_name": ["text", "Instrument whose trades are missing."],
        "first_missing_seq": ["integer", "First missing trade_seq."],
        "last_missing_seq": ["integer", "Last missing trade_seq."],
        "missing": ["integer", "Number of missing trades."],
        "where": ["text", "head, inner or tail."],
        "known_absent": ["flag", "Whether the exchange does not have them."],
        **_STREAM,
        "after_at": ["time?", "Time of the trade before; null at the head."],
        "before_at": ["time?", "Time of the trade after; null at the tail."],
    },
    "Span": {"from": ["time", "Start of covered time."], "to": ["time", "End of covered time."]},
    "Day": {
        "day": ["day", "UTC day."],
        "state": ["text", "missing, absent, proven or not_requested."],
        "covered_share": ["number", "Share of the day that is covered, 0 to 1."],
        "missing": ["integer", "Missing trades that may be of the day."],
        "absent": ["integer", "Absent trades that may be of the day."],
    },
    "StreamCoverage": {
        **_STREAM,
        "trades": ["integer", "Loaded trades."],
        "instruments": ["integer", "Instruments with trades."],
        "covered_from": ["time", "Start of the covered time."],
        "covered_to": ["time", "End of the covered time."],
        "missing": ["integer", "Missing trades that the exchange may have."],
        "absent": ["integer", "Trades that the exchange does not have."],
        "proven_share": ["number", "Share of the requested trade numbers that are loaded or absent, 0 to 1."],
        "lag_seconds": ["integer", "Seconds since the end of the covered time."],
        "last_load_at": ["time?", "The newest load of the stream."],
    },
    "OpenInterest": {
        "day": ["day", "UTC day."],
        "settlement_currency": ["text", "Currency of profit and loss."],
        "kind": ["text", "future or option."],
        "open_interest": [
            "decimal",
            "Sum over instruments: of inverse futures in USD, of all others in coin.",
        ],
        "instruments": ["integer", "Number of instruments with open interest."],
        "source": ["text", "settlement, book_summary, or both."],
    },
}
_CURSOR: Schema = {"type": ["string", "null"], "description": "Cursor of the next page, null at the end."}
_DESCRIPTION = """\
Every Deribit trade, provably gapless: trades, candles, volatility, series, and the proof that nothing is missing.

Prices, volumes and other market data are text with all digits, times are ISO 8601 in UTC, `coverage` is the proof."""


def install_document(app: FastAPI) -> None:
    """Make `app.openapi()` return the document with the components of this module."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="deribit-tape",
        version=version("deribit-tape"),
        summary="Every Deribit trade, provably gapless.",
        description=_DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        routes=app.routes,
        servers=[{"url": "/", "description": "The server that this document is from."}],
        tags=[
            {"name": "Instruments", "description": "Trades, candles and prices of an instrument."},
            {
                "name": "Volatility and series",
                "description": "Volatility of an underlying, and other series.",
            },
            {"name": "Operation", "description": "Health, coverage and progress."},
        ],
    )
    document["security"] = [{"key": []}, {}]
    document["components"] = {"schemas": _components(), "securitySchemes": {"key": _SCHEME}}
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                _simplify(parameter)
    return document


_SCHEME: Schema = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of the server's key file; not needed on loopback without one.",
}


def _simplify(parameter: Schema) -> None:
    """Replace `anyOf` a type and null, which a parameter cannot be, by the type."""
    schema = parameter["schema"]
    if options := [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]:
        schema |= options[0]
    schema.pop("title", None)
    if examples := schema.pop("examples", None):
        parameter["example"] = examples[0]
    parameter.pop("examples", None)


def _components() -> dict[str, Schema]:
    components = {name: _object(columns) for name, columns in _OBJECTS.items()}
    components |= {name: _object(table_columns(table)) for name, table in _ROWS.items()}
    coverage = {"$ref": "#/components/schemas/Coverage"}
    stream = components["StreamCoverage"]
    stream["properties"] |= {"spans": _array("Span"), "days": _array("Day")}
    stream["required"].append("spans")
    for name, (items, members) in _LISTS.items():
        components[name] = _list(items, _object(members))
    components["CheckList"] = _list(("Check",), _object({}), with_coverage=False)
    components["BackfillStatus"] = _list(("StreamProgress",), _object(_PROGRESS))
    prices = components["PriceList"] = _list(("Price",), _object({}))
    prices["properties"]["not_found"] = {"type": "array", "items": {"type": "string"}}
    prices["required"].append("not_found")
    for name, row in (("InstrumentAnswer", "Instrument"), ("PriceAnswer", "Price")):
        components[name] = _with_coverage(components[row], coverage)
    outcomes = ("OptionOutcome", "FutureOutcome")
    components["OutcomeAnswer"] = {"anyOf": [_with_coverage(components[row], coverage) for row in outcomes]}
    components["PriceBatch"] = {
        "type": "object",
        "properties": {
            "instruments": {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": 100,
                "description": "Names of the instruments.",
            }
        },
        "required": ["instruments"],
        "additionalProperties": False,
        "example": {"instruments": ["BTC-PERPETUAL", "ETH-PERPETUAL"]},
    }
    del components["FutureOutcome"]
    return components


def _object(columns: Mapping[str, list[str]]) -> Schema:
    properties = {name: _property(*column) for name, column in columns.items()}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _property(type_: str, description: str) -> Schema:
    schema = {**_TYPES[type_.rstrip("?")], "description": description}
    if type_.endswith("?"):
        schema["type"] = [schema["type"], "null"]
    return schema


def _array(item: str) -> Schema:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{item}"}}


def _list(items: tuple[str, ...], members: Schema, *, with_coverage: bool = True) -> Schema:
    one: list[Schema] = [{"$ref": f"#/components/schemas/{item}"} for item in items]
    members["properties"] |= {
        "items": {"type": "array", "items": one[0] if len(one) == 1 else {"anyOf": one}},
        "next_cursor": _CURSOR,
    }
    members["required"] += ["items", "next_cursor"]
    if with_coverage:
        members["properties"]["coverage"] = {"$ref": "#/components/schemas/Coverage"}
        members["required"].append("coverage")
    return members


def _with_coverage(row: Schema, coverage: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**row["properties"], "coverage": coverage},
        "required": [*row["required"], "coverage"],
    }


def reference_page(document: Mapping[str, Any]) -> str:
    """The document as a page of plain HTML."""
    operations = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    codes = ", ".join(f"<code>{code}</code> ({status})" for code, status in STATUSES.items())
    schemas = [_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    return _PAGE.format(
        title=escape(document["info"]["title"]),
        version=escape(document["info"]["version"]),
        description=escape(document["info"]["description"]).replace("\n\n", "<p>"),
        operations="\n".join(operations),
        schemas="\n".join(schemas),
        codes=codes,
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code><td>{each['in']}"
        f"<td>{_code(_type(each['schema']))}<td>{_text(each.get('description', ''))}"
        for each in operation.get("parameters", ())
    ]
    parameters = f"<table><tr><th>parameter<th>in<th>type<th>meaning{''.join(rows)}</table>" if rows else ""
    content = operation["responses"]["200"]["content"]
    schema = next(iter(content.values()))["schema"].get("$ref", "").rpartition("/")[2]
    answer = (
        f'<p>Answer: <a href="#{schema}">{schema}</a> as {", ".join(map(_code, content))}.' if schema else ""
    )
    statuses = ", ".join(operation["responses"])
    return (
        f"<section><h3><code>{method.upper()} {escape(path)}</code></h3><p>{_text(operation.get('description', ''))}"
        f"{parameters}{answer}<p>Statuses: {statuses}.</section>"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    one = schema["anyOf"][0] if "anyOf" in schema else schema
    rows = [
        f"<tr><td><code>{escape(each)}</code><td>{_code(_type(value))}<td>{_text(value.get('description', ''))}"
        for each, value in one["properties"].items()
    ]
    return f'<section id="{name}"><h3>{name}</h3><table><tr><th>member<th>type<th>meaning{"".join(rows)}</table></section>'


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _text(text: str) -> str:
    """Text with `code` in it."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}: HTTP API</title>
<link rel="icon" href="/icon.svg"><link rel="stylesheet" href="/docs.css">
</head><body>
<h1>{title} {version}: HTTP API</h1>
<p>{description}
<p>The same as a document: <a href="/openapi.json">/openapi.json</a>. A parameter that a route does not have is an error.
<h2>Routes</h2>
{operations}
<h2>Errors</h2>
<p>Every error is <code>{{"code": …, "message": …}}</code>. Codes: {codes}.
<h2>Schemas</h2>
{schemas}
</body></html>
"""
