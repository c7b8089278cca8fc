"""Split the array of an answer into its records, so that memory does not grow with what a record holds.

A hostile answer within the limits of size may still hold millions of tiny values or levels; each becomes an object of
Python once it is decoded.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec

from extract.deribit.jsonrpc import DECODE_ERRORS, Envelope, NoResultError
from extract.errors import FinalError

MAX_DEPTH = 64
"""Levels of nesting in a record that is rejected if decoding it exceeds Python's recursion limit."""
MAX_RECORD_BYTES = 64 * 2**10
"""A trade with all its legs has 2,000 bytes, an instrument 1,000. A larger record is rejected without decoding it."""

_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_ELEMENT_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)
_TO_SUSPECT = re.compile(
    rb"""(?:[\s\[\]{},:]++
          | (?>"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt])*+")
          | (?>(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)(?![^\s"\[\]{},:]))
        )*+
        ("(?:[^"\\]++|\\.)*+"|[^\s"\[\]{},:]++)?+""",
    re.DOTALL | re.VERBOSE,
)
"""From any token: the following ones that can be decoded for certain, and the next as group 1.

That is a text with a control character or an escape of more than one letter, or a bare value that is no number or literal.
Each kind of token is an atomic group: before 3.11.5, Python continued after the part of a token that had matched.
"""
_IS_OBJECT = re.compile(rb"\s*+\{")
_DEEP_PLACEHOLDER = re.compile(rb'"\\u0000deep value (\d+)"')
_ODD_PLACEHOLDER = re.compile(rb'"\\u0000odd value ((?:[0-9a-f]{2})++)"')

MAX_QUOTED_BYTES = 50
"""Longest quotation of a value that cannot be decoded."""

MAX_BRACES = 1_000_000
"""Objects of an answer up to which it is split by the JSON decoder, which takes memory for each."""

T = TypeVar("T")


class _Object(msgspec.Struct, gc=False):
    """An object of which nothing is decoded."""


_objects_decoder = msgspec.json.Decoder(list[_Object])
_elements_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class TooManyRecordsError(FinalError):
    """An answer has more records or bytes than its request may have."""


@dataclass(frozen=True)
class Replaced:
    """What placeholders in the text of an answer stand for.

    `deep_values`: values that are nested too deep, by number. `has_odd_values`: whether there are placeholders of values
    that cannot be decoded, such as NaN or half of a surrogate pair; each of them holds its value.
    """

    deep_values: list[bytes] = field(default_factory=list)
    has_odd_values: bool = False


@dataclass(frozen=True)
class Record:
    """The text of a record, with placeholders for values that cannot be decoded; `sent` is without those.

    `fault` is the reason why it must not be decoded as a whole, if there is one.
    """

    text: bytes
    sent: bytes
    fault: str | None = None


def decode_envelope(decoder: msgspec.json.Decoder[Envelope[T]], body: bytes) -> tuple[Envelope[T], Replaced]:
    """(the answer, what was replaced in it because it is nested too deep or cannot be decoded).

    Raises one of DECODE_ERRORS.
    """
    try:
        return decoder.decode(body), Replaced()
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError) as error:
        text = _replace_odd_values(body)
        replaced = Replaced(has_odd_values=text is not body)
        if isinstance(error, msgspec.DecodeError) and not replaced.has_odd_values:
            raise
    try:
        return decoder.decode(text), replaced
    except RecursionError:
        text, deep_values = _replace_deep_values(text)
        return decoder.decode(text), replace(replaced, deep_values=deep_values)


_raw_decoder = msgspec.json.Decoder(Envelope[msgspec.Raw])


def decode_records(body: bytes, most: int) -> Iterator[Record]:
    """The records of an answer whose result is a list of them. Raises as `decode_envelope` and `split_records` do."""
    answer, replaced = decode_envelope(_raw_decoder, body)
    return split_records(answer.unwrap(), replaced, most)


def decode_record(body: bytes) -> Record:
    """The record that is the result of an answer. Raises NoResultError or one of DECODE_ERRORS."""
    answer, replaced = decode_envelope(_raw_decoder, body)
    return record_of(bytes(answer.unwrap()), replaced)


def split_records(records: msgspec.Raw, replaced: Replaced, most: int) -> Iterator[Record]:
    """The elements of a JSON array, which are counted before the first is returned.

    Raises NoResultError for another value, and TooManyRecordsError for more than `most` elements.
    """
    text = bytes(records)
    if text[:1] != b"[":
        raise NoResultError("the answer is not a list of records")
    elements: Iterable[bytes] | None = None
    if text.count(b"{") <= MAX_BRACES:
        with suppress(msgspec.DecodeError, RecursionError):
            # Fails at the first element that is no object, so that there are not more elements than braces.
            if len(_objects_decoder.decode(text)) > most:
                raise _too_many(most)
            elements = map(bytes, _elements_decoder.decode(text))
    if elements is None:
        spans = zip(*_spans(text, most), strict=True)
        elements = (text[start:end].strip() for start, end in spans)
    return (record_of(element, replaced) for element in elements if element)


def _too_many(most: int) -> TooManyRecordsError:
    return TooManyRecordsError(f"The exchange sent more than {most:,} records in one answer.")


def _spans(text: bytes, most: int) -> tuple[array[int], array[int]]:
    """(starts, ends) of the elements of a JSON array; the only one of an empty array is blank."""
    starts, ends = array("q", [1]), array("q")
    depth = 0
    for token in _ELEMENT_TOKENS.finditer(text):
        character = token[0]
        if character == b",":
            if depth == 1:
                ends.append(token.start())
                starts.append(token.end())
                if len(starts) > most:
                    raise _too_many(most)
        elif character in b"[{":
            depth += 1
        elif character in b"]}":
            depth -= 1
            if depth == 0:
                ends.append(token.start())
    return starts, ends


def record_of(text: bytes, replaced: Replaced) -> Record:
    """The record of this text, which may hold placeholders."""
    sent, fault = text, None
    if replaced.deep_values and _DEEP_PLACEHOLDER.search(sent):
        sent = _DEEP_PLACEHOLDER.sub(lambda match: _deep_value(match, replaced.deep_values), sent)
        fault = f"nested deeper than {MAX_DEPTH} levels"
    if replaced.has_odd_values and (odd := _ODD_PLACEHOLDER.search(sent)):
        sent = _ODD_PLACEHOLDER.sub(_odd_value, sent)
        fault = fault or f"a value cannot be decoded: {_quoted(_odd_value(odd))}"
    if not fault and len(text) > MAX_RECORD_BYTES:
        fault = f"larger than {MAX_RECORD_BYTES:,} bytes"
    return Record(text, sent, fault)


def is_placeholder(value: bytes) -> bool:
    """Whether the JSON text of a value, from the `text` of a record, is a placeholder."""
    return bool(_DEEP_PLACEHOLDER.fullmatch(value) or _ODD_PLACEHOLDER.fullmatch(value))


def _deep_value(match: re.Match[bytes], deep_values: list[bytes]) -> bytes:
    number = int(match[1][:9])
    return deep_values[number] if number < len(deep_values) else match[0]


def _odd_value(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode())


def _quoted(value: bytes) -> str:
    return value[:MAX_QUOTED_BYTES].decode("utf-8", "replace")


def _replace_odd_values(body: bytes) -> bytes:
    """`body` with a placeholder for each value and name that cannot be decoded; the same object if there is none."""
    if not _IS_OBJECT.match(body):
        return body
    text = bytearray()
    at = copied_to = 0
    while (match := _TO_SUSPECT.match(body, at)) and match[1] is not None:
        suspect, at = match[1], match.end()
        if not _can_be_decoded(suspect):
            text += body[copied_to : match.start(1)]
            text += b'"\\u0000odd value %b"' % suspect.hex().encode()
            copied_to = at
    return bytes(text + body[copied_to:]) if copied_to else body


def _can_be_decoded(suspect: bytes) -> bool:
    is_text = suspect.startswith(b'"')
    if not is_text or _ODD_PLACEHOLDER.fullmatch(suspect):  # sent so by the exchange: no placeholder
        return False
    try:
        msgspec.json.decode(suspect)
    except DECODE_ERRORS:
        return False
    return True


def _replace_deep_values(body: bytes) -> tuple[bytes, list[bytes]]:
    """(`body` with a placeholder for each value nested deeper than MAX_DEPTH, those values)."""
    parts: list[bytes] = []
    values: list[bytes] = []
    depth = copied_to = start = 0
    for token in _TOKENS.finditer(body):
        if token[0] in b"[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                start = token.start()
        elif token[0] in b"]}":
            if depth == MAX_DEPTH + 1:
                parts += [body[copied_to:start], b'"\\u0000deep value %d"' % len(values)]
                values.append(body[start : token.end()])
                copied_to = token.end()
            depth -= 1
    return b"".join([*parts, body[copied_to:]]), values
