"""Split the array of an answer into its records, so that memory does not grow with what a record holds.

A hostile answer within the limits of size may still hold millions of tiny values or levels; each becomes an object of
Python once it is decoded.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from extract.deribit.jsonrpc import Envelope, NoResultError
from extract.errors import FinalError

MAX_DEPTH = 64
"""Levels of nesting in a record that is rejected if decoding it exceeds Python's recursion limit."""
MAX_RECORD_BYTES = 64 * 2**10
"""A trade with all its legs has 2,000 bytes, an instrument 1,000. A larger record is rejected without decoding it."""

_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_ELEMENT_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)
_PLACEHOLDER = re.compile(rb'"\\u0000deep value (\d+)"')

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
class Record:
    """The text of a record, with placeholders for values that are nested too deep; `sent` is without those.

    `fault` is the reason why it must not be decoded as a whole, if there is one.
    """

    text: bytes
    sent: bytes
    fault: str | None = None


def decode_envelope(
    decoder: msgspec.json.Decoder[Envelope[T]], body: bytes
) -> tuple[Envelope[T], list[bytes]]:
    """(the answer, texts of values that are nested too deep and were replaced). Raises one of DECODE_ERRORS."""
    try:
        return decoder.decode(body), []
    except RecursionError:
        body, deep_values = _replace_deep_values(body)
        return decoder.decode(body), deep_values


def split_records(records: msgspec.Raw, deep_values: list[bytes], most: int) -> Iterator[Record]:
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
    return (_record(element, deep_values) for element in elements if element)


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


def _record(text: bytes, deep_values: list[bytes]) -> Record:
    if deep_values and _PLACEHOLDER.search(text):
        sent = _PLACEHOLDER.sub(lambda match: _deep_value(match, deep_values), text)
        return Record(text, sent, f"nested deeper than {MAX_DEPTH} levels")
    is_large = len(text) > MAX_RECORD_BYTES
    return Record(text, text, f"larger than {MAX_RECORD_BYTES:,} bytes" if is_large else None)


def _deep_value(match: re.Match[bytes], deep_values: list[bytes]) -> bytes:
    number = int(match[1][:9])
    return deep_values[number] if number < len(deep_values) else match[0]


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
