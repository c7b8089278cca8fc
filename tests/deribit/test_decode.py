"""Decoding loses no unusual record, and the fast and the slow path give the same table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.deribit.arrow import content_digests, count_unknown_fields, sort_by_instrument, to_table
from extract.deribit.decode import (
    decode_fields,
    decode_page,
    decode_record_by_record,
    decode_trades,
)
from extract.deribit.jsonrpc import NoResultError
from extract.deribit.records import MAX_DEPTH
from extract.deribit.schema import PAGE_SCHEMA, Trade, TradeWithExtras
from extract.sandbox.tape import Tape
from tests.support.histories import trade
from tests.support.recorded import SHARED, needs_recordings

RECORDED = sorted(SHARED.glob("recorded/*trades*.json"))

ODD_LEGS = json.dumps(trade("X", 1, 1, 1)).encode()[:-1] + b', "legs": ["\xff"]}'
ODD = trade("BTC-29DEC23", 7, 7, 1_700_000_000_000)


def body(records: list[Any], **envelope: Any) -> bytes:
    return json.dumps({"result": {"trades": records, "has_more": True}} | envelope).encode()


def rows(records: list[Any]) -> list[dict[str, Any]]:
    return to_table(decode_trades(body(records))[0]).to_pylist()


def unknown_in(page: Any) -> dict[str, int]:
    return count_unknown_fields(page.table)


def digest(page: Any) -> int:
    [only] = content_digests(page.table)
    return only


def one(**changes: Any) -> Any:
    return decode_page(body([ODD | changes]))


def test_fast_and_slow_decoding_give_the_same_table(small_tape: Tape) -> None:
    """Every kind of record: the same table and digests from a page, from single records and from single fields."""
    records = small_tape.trades
    quick, *_ = decode_trades(body(records))
    assert {type(each) for each in quick} == {Trade}
    slow, *_ = decode_record_by_record(body(records))
    raws = msgspec.json.decode(msgspec.json.encode(records), type=list[msgspec.Raw])
    loose = [decode_fields(bytes(raw)) for raw in raws]
    assert {type(each) for each in loose} == {TradeWithExtras}
    table = decode_page(body(records)).table
    assert table.schema == PAGE_SCHEMA
    assert table.equals(sort_by_instrument(to_table(quick))[0])
    assert table.equals(sort_by_instrument(to_table(slow))[0])
    digests = content_digests(table)
    assert digests == content_digests(sort_by_instrument(to_table(loose))[0])
    assert len(set(digests)) == len(records)


def test_page_holds_each_trade_once_in_its_latest_version() -> None:
    """`rows` still counts all records of the answer: a page full of one trade is a full page."""
    again = ODD | {"price": 2.5}
    other = trade("BTC-29DEC23", 8, 8, 1_700_000_000_000)
    page = decode_page(body([ODD, other, again]))
    assert (page.rows, page.table.num_rows) == (3, 2)
    assert {(row["trade_seq"], row["price"]) for row in page.table.to_pylist()} == {
        (7, 2.5),
        (8, other["price"]),
    }


@pytest.mark.parametrize("odd", [{}, {"new": 1}, {"price": {}}], ids=["strict", "lenient", "one by one"])
@pytest.mark.parametrize(
    ("sent", "has_more"),
    [
        ("true", True),
        ("false", False),
        ("null", False),
        ("1", True),
        ("0", False),
        ('"false"', False),
        ("{}", True),
    ],
)
def test_page_with_any_has_more_is_readable(sent: str, has_more: bool, odd: dict[str, Any]) -> None:
    """A value of another type is true unless it is 0; null is as no value."""
    text = f'{{"result": {{"trades": {json.dumps([ODD | odd])}, "has_more": {sent}}}}}'
    page = decode_page(text.encode())
    assert (page.rows, page.has_more) == (1, has_more)
    assert not decode_page(text.replace('"has_more"', '"other"').encode()).has_more


def test_values_are_decoded_as_they_were_sent(small_tape: Tape) -> None:
    """Row by row and column by column, legs as JSON text."""
    for record, row in zip(small_tape.trades, rows(small_tape.trades), strict=True):
        for name, value in record.items():
            got = row[name]
            if name == "timestamp":
                got = int(got.timestamp() * 1000 + 0.5)
            assert (json.loads(got) if name == "legs" else got) == value


def test_unknown_field_is_stored_in_extra_and_counted() -> None:
    """The value is stored as it was sent; records without such a field have no `extra`."""
    records = [ODD | {"odd field": [1, {"a": None}]}, ODD | {"trade_seq": 8, "trade_id": "8"}]
    page = decode_page(body([*records, records[0] | {"trade_seq": 9, "trade_id": "9"}]))
    assert unknown_in(page) == {"odd field": 2}
    extra = [row["extra"] for row in rows(records)]
    assert json.loads(extra[0]) == {"odd field": [1, {"a": None}]}
    assert extra[1] is None
    assert unknown_in(decode_page(body([ODD]))) == {}
    assert unknown_in(one(other="x")) == {"other": 1}


def test_unknown_field_of_each_record_has_another_name() -> None:
    records = [ODD | {f"field_{n}": n} for n in range(200)]
    assert [json.loads(row["extra"]) for row in rows(records)] == [{f"field_{n}": n} for n in range(200)]


@pytest.mark.parametrize("name", ['"', "\\", "\n", "\x00", "extra", "x0", "", "Ä", '\\"{'])
def test_unknown_field_may_have_any_name(name: str) -> None:
    """Quotes, backslashes, control characters and the name of the column itself."""
    changes = {name: {"a": [1, "b"]}}
    page = one(**changes)
    assert not page.rejected
    assert json.loads(page.table.column("extra").to_pylist()[0]) == changes
    assert unknown_in(page) == {name: 1}


@pytest.mark.parametrize(
    ("field", "levels"), [("new", 200_000), ("legs", 20_000), ("price", 20_000), ("instrument_name", 20_000)]
)
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deeply_nested_value_rejects_only_its_record(field: str, levels: int, brackets: str) -> None:
    """The raw text is stored as it was sent."""
    opening = "[" if brackets == "[]" else '{"a":'
    deep = opening * levels + "0" + brackets[1] * levels
    good = json.dumps(ODD)
    odd = good[:-1] + f', "text": "[[{{", "{field}": {deep}}}'
    page = decode_page(f'{{"result": {{"trades": [{good}, {odd}, {good}]}}}}'.encode())
    [rejected] = page.rejected
    assert (page.rows, page.table.num_rows) == (3, 1)
    assert rejected.raw == odd
    assert rejected.reason == f"nested deeper than {MAX_DEPTH} levels"
    assert rejected.key == (None if field == "instrument_name" else ("BTC-29DEC23", 7))


ODD_VALUES = ["NaN", "Infinity", "-Infinity", '"\\ud800"', '"\\udc00\\ud800"', "01", "None", '"\n"', '"\\x"']


@pytest.mark.parametrize("value", [*ODD_VALUES, '["\\ud800", {"\\ud800": NaN}]'])
@pytest.mark.parametrize("field", ["new", "price", "instrument_name", "trade_seq", "legs"])
def test_value_that_cannot_be_decoded_rejects_only_its_record(field: str, value: str) -> None:
    """Also next to a deep value; the raw text is stored as it was sent, and the key as far as it can be read."""
    good = json.dumps(ODD)
    odd = (
        json.dumps({name: each for name, each in ODD.items() if name != field})[:-1]
        + f', "{field}": {value}}}'
    )
    deep = good[:-1] + ', "new": ' + "[" * 20_000 + "]" * 20_000 + "}"
    for rejected in ([odd], [deep, odd]):
        text = f'{{"result": {{"trades": [{", ".join([good, *rejected, good])}]}}, "usIn": 1700000000123456}}'
        page = decode_page(text.encode())
        assert (page.rows, page.table.num_rows, page.at_ms) == (len(rejected) + 2, 1, 1_700_000_000_123)
        assert [each.raw for each in page.rejected] == rejected
        assert page.rejected[-1].reason.startswith("a value cannot be decoded: ")
        assert page.rejected[-1].key == (
            ("BTC-29DEC23", 7) if field not in ("instrument_name", "trade_seq") else None
        )


def test_values_that_look_odd_are_decoded() -> None:
    """Escapes, a pair of surrogates, the text of a placeholder and words in texts, next to a record with NaN."""
    texts = ['"\\ud83d\\ude00"', '"NaN"', '"\\"NaN, \\\\"', '"\\u0000"', "-1.5e-3", "true", "null"]
    records = [
        json.dumps(ODD | {"trade_seq": n})[:-1] + f', "new": {text}}}' for n, text in enumerate(texts, 1)
    ]
    odd = [json.dumps(ODD)[:-1] + f', "new": {text}}}' for text in ("NaN", '"\\u0000odd value 4e61"')]
    page = decode_page(f'{{"result": {{"trades": [{", ".join([*records, *odd])}]}}}}'.encode())
    assert [each.raw for each in page.rejected] == odd
    extra = [json.loads(each)["new"] for each in page.table.column("extra").to_pylist()]
    assert extra == [json.loads(text) for text in texts]


def test_many_values_that_cannot_be_decoded_take_linear_time() -> None:
    """A record of 50,000 of them is rejected, and a page that ends within a text is no page."""
    good = json.dumps(ODD)
    for value in ("[" + "NaN," * 50_000 + "0]", "[" + '"\\ud800",' * 50_000 + "0]"):
        page = decode_page(f'{{"result": {{"trades": [{good}, {{"new": {value}}}]}}}}'.encode())
        assert (page.table.num_rows, len(page.rejected)) == (1, 1)
    with pytest.raises(msgspec.DecodeError):
        decode_page(f'{{"result": {{"trades": [{good}, NaN, "'.encode() + b'\\"' * 1_000_000)


@pytest.mark.parametrize(
    ("changes", "column", "value"),
    [
        ({"price": "30000.5"}, "price", 30_000.5),
        ({"trade_id": 42}, "trade_id", "42"),
        ({"trade_seq": "7"}, "trade_seq", 7),
        ({"block_trade_id": 9}, "block_trade_id", "9"),
        ({"mark_price": None}, "mark_price", None),
        ({"legs": None}, "legs", None),
    ],
)
def test_field_of_another_type_is_converted(changes: dict[str, Any], column: str, value: object) -> None:
    assert one(**changes).table.column(column).to_pylist() == [value]


@pytest.mark.parametrize("changes", [{"iv": "high"}, {"tick_direction": [1]}, {"contracts": True}])
def test_optional_field_that_cannot_be_converted_goes_to_extra(changes: dict[str, Any]) -> None:
    [row] = rows([ODD | changes])
    [name] = changes
    assert row[name] is None
    assert json.loads(row["extra"]) == changes
    assert unknown_in(one(**changes)) == {name: 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": {}}, "price"),
        ({"price": None}, "price: Expected"),
        ({"trade_seq": 0}, "trade_seq"),
        ({"trade_seq": 2**70}, ""),
        ({"direction": True}, "direction: text was expected"),
        ({"timestamp": -1}, "timestamp"),
        ({"amount": 1e13}, "amount"),
        ({"amount": -1.0}, "amount"),
        ({"price": -1e13}, "price"),
        ({"direction": None}, "direction: Expected"),
    ],
)
def test_record_that_does_not_fit_is_rejected_with_reason_and_raw_text(
    changes: dict[str, Any], reason: str
) -> None:
    """The other records of its page are not rejected."""
    page = decode_page(body([ODD, ODD | changes, ODD]))
    assert page.rows - len(page.rejected) == 2
    [bad] = page.rejected
    assert reason in bad.reason
    assert json.loads(bad.raw) == ODD | changes
    if "price" in changes:
        assert bad.key == ("BTC-29DEC23", 7)
        assert bad.timestamp == 1_700_000_000_000


@pytest.mark.parametrize(
    "piece", [b"[1]", b'"text"', b"null", b'{"a": 1e999}', b'{"trade_id": "\xff"}', ODD_LEGS]
)
def test_malformed_record_is_rejected_alone(piece: bytes) -> None:
    """A record that is not an object, has a number out of range or invalid UTF-8 does not affect the others."""
    good = json.dumps(ODD).encode()
    page = decode_page(b'{"result": {"trades": [%b, %b, %b]}}' % (good, piece, good))
    assert page.rows - len(page.rejected) == 2
    assert len(page.rejected) == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"<html>", msgspec.DecodeError),
        (b"", msgspec.DecodeError),
        (body([ODD])[:-40], msgspec.DecodeError),
        (b'{"error": {"code": 1}}', NoResultError),
        (b"{}", NoResultError),
        (b'{"result": []}', NoResultError),
        (b'{"result": {"trades": 5}}', NoResultError),
    ],
)
def test_body_without_a_page_is_an_error(text: bytes, error: type[Exception]) -> None:
    """It is never decoded as an empty page."""
    with pytest.raises(error):
        decode_page(text)


def test_page_has_the_time_of_the_exchange() -> None:
    assert decode_page(body([ODD], usIn=1_700_000_000_123_456)).at_ms == 1_700_000_000_123
    assert decode_page(body([ODD])).at_ms is None


def test_digest_depends_on_content_only() -> None:
    """Spelling and order of the JSON make no difference."""
    plain = one(legs=[{"a": 1, "b": 2}], new=[1, 2])
    spaced = decode_page(json.dumps(
        {"result": {"trades": [{"new": [1, 2]} | ODD | {"legs": [{"b": 2, "a": 1}]}]}}, indent=3
    ).encode())  # fmt: skip
    assert digest(plain) == digest(spaced)
    assert digest(plain) != digest(one(legs=[{"a": 1, "b": 2}], new=[1, 3]))
    assert digest(one()) != digest(one(price=1.5))


@needs_recordings
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_recorded_answers_decode_without_rejects(path: Path) -> None:
    """Answers of the real exchange have no rejected record and no unknown field."""
    text = path.read_bytes()
    page = decode_page(text)
    assert page.table.num_rows == len(json.loads(text)["result"]["trades"]) > 0
    assert not page.rejected
    assert not unknown_in(page)


@given(st.lists(st.tuples(st.sampled_from("ABCÄ"), st.integers(1, 9)), max_size=30))
def test_page_is_sorted_by_instrument_stably(keys: list[tuple[str, int]]) -> None:
    """The flag is True only if no trade is there twice."""
    same = {"timestamp": 0, "price": 1.0, "amount": 1.0, "direction": "buy"}
    trades = [
        Trade(trade_seq=seq, trade_id=f"{name}{seq}", instrument_name=name, **same) for name, seq in keys
    ]
    table, is_each_once = sort_by_instrument(to_table(trades))
    got = list(zip(table["instrument_name"].to_pylist(), table["trade_seq"].to_pylist(), strict=True))
    assert got == sorted(keys, key=lambda key: key[0].encode())
    assert is_each_once == (got == sorted(set(keys)))


@pytest.mark.parametrize("number", ["1e400", "7" * 5_000], ids=["out of range", "long"])
@pytest.mark.parametrize("name", ["legs", "unknown", "price", "trade_seq"])
def test_number_that_no_type_holds_affects_its_record_only(name: str, number: str) -> None:
    """It stays as text in a field without a type; in another one the record is rejected with its text."""
    record = json.dumps(ODD | {name: None}).replace(f'"{name}": null', f'"{name}": [{number}]')
    text = record if name in ("legs", "unknown") else record.replace(f"[{number}]", number)
    page = decode_page(
        b'{"result": {"has_more": false, "trades": [%s, %s]}}'
        % (json.dumps(ODD | {"trade_seq": 8}).encode(), text.encode())
    )
    assert page.rows == 2
    if page.rejected:
        assert [each.raw for each in page.rejected] == [text]
        assert page.table.num_rows == 1
    else:
        assert name in ("legs", "unknown")
        assert len(set(content_digests(page.table))) == 2
