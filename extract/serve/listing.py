"""Lists: one page of a statement in the wanted format, with the cursor of the next page and the proof."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from extract.serve.coverage import Proof
from extract.serve.cursor import decode_cursor, encode_cursor, question_digest
from extract.serve.errors import ApiError
from extract.serve.formats import ARROW, JSON, Format, chosen_format
from extract.serve.service import CachedAnswer, Service
from extract.serve.tables import columns_in_seconds

FROM_TAPE = "private, no-cache"
"""Cache-Control of answers from the tape: they may be stored, and are asked for again with their ETag."""
PREFETCH = 1
"""Rows that are read beyond a page, to know whether there is another one."""
RANGES = (1, 16, 256)
"""Numbers for each row of a page that are read, one attempt after the other, before all are: numbers have few holes."""
EVERYTHING = "1"
_OF_A_PAGE = ("cursor", "limit", "format")


@dataclass(frozen=True)
class Column:
    """A column of the key by which a list is paged, with its ClickHouse type."""

    name: str
    type: str


TEXT, NUMBER, TIME, SECOND, DAY = "String", "Int64", "DateTime64(3, 'UTC')", "DateTime('UTC')", "Date"
_VALID = {
    NUMBER: re.compile(r"-?\d{1,18}"),
    TIME: re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,3})?"),
    SECOND: re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"),
    DAY: re.compile(r"\d{4}-\d\d-\d\d"),
    TEXT: re.compile(r"[^\x00]{0,300}"),
}


@dataclass(frozen=True)
class Question:
    """A list to answer: a statement of serve.sql with its parameters, and the key by which it is paged.

    `table`: whose columns the rows have.
    Without a key the list has one page. `ends`: of a list whose key is the number of a row, the first and the last number,
    so that a page reads a range of numbers and not all. `members`: more members of a JSON answer, from its rows;
    `headers`: header fields that have them in other formats.
    """

    statement: str
    parameters: Mapping[str, Any]
    key: Sequence[Column] = ()
    table: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    order: str = "asc"
    ends: Callable[[], Awaitable[tuple[int, int]]] | None = None
    members: Callable[[Sequence[bytes]], Mapping[str, Any]] = lambda rows: {}
    headers: Mapping[str, str] = field(default_factory=dict)


ProofOf = Callable[[Sequence[bytes]], Awaitable[Proof]]
"""The proof of an answer, from its rows in JSON; there are none in other formats."""


@dataclass(frozen=True)
class _Page:
    """A page of a question: `after` is the key of the row before it, empty for the first page."""

    question: Question
    digest: str
    limit: int
    after: list[str]

    def parameters(self, limit: int) -> dict[str, Any]:
        keys = {f"key_{number}": value for number, value in enumerate(self.after)}
        return {**self.question.parameters, **keys, "limit": limit}

    @property
    def statement(self) -> str:
        return "page" if self.question.key else self.question.statement

    def parts(self, **changes: str) -> dict[str, str]:
        names = ", ".join(column.name for column in self.question.key)
        order = ", ".join(f"{column.name} {self.question.order}" for column in self.question.key)
        after = self.compared("key", ">" if self.question.order == "asc" else "<") if self.after else "1"
        return {
            "rows": f"<{self.question.statement}>",
            "after": after,
            "until_last": "1",
            "order": order,
            "key": names,
            "range": EVERYTHING,
            **self.question.parts,
            **changes,
        }

    def compared(self, prefix: str, operator: str) -> str:
        """A condition that compares the key with parameters."""
        names = ", ".join(column.name for column in self.question.key)
        values = ", ".join(
            f"{{{prefix}_{number}:{column.type}}}" for number, column in enumerate(self.question.key)
        )
        return (
            f"({names}) {operator} ({values})"
            if len(self.question.key) > 1
            else f"{names} {operator} {values}"
        )

    async def ranges(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Conditions with their parameters that the next rows fulfil if there are enough of them; the last one always."""
        if self.question.ends:
            [key], is_up = self.question.key, self.question.order == "asc"
            first, last = await self.question.ends()
            start = int(self.after[0]) if self.after else first - 1 if is_up else last + 1
            for numbers in (each * (self.limit + PREFETCH) for each in RANGES):
                end = start + numbers if is_up else start - numbers
                if end >= last if is_up else end <= first:
                    break
                yield f"{key.name} {'<=' if is_up else '>='} {{range_end:{key.type}}}", {"range_end": end}
        yield EVERYTHING, {}

    def cursor(self, key: Sequence[Any]) -> str:
        return encode_cursor(self.digest, [as_parameter(value) for value in key])


async def answer_list(
    service: Service,
    request: Request,
    question: Question,
    proof: ProofOf,
    *,
    limit: int = JSON.max_limit,
    cursor: str | None = None,
    format_name: str | None = None,
) -> Response:
    """One page of a question, in the format of the request."""
    format = chosen_format(format_name, request.headers.get("accept", ""))
    if limit > format.max_limit:
        raise ApiError("invalid_parameter", f"limit is at most {format.max_limit:,} in {format.name}.")
    asked = {name: value for name, value in request.query_params.items() if name not in _OF_A_PAGE}
    digest = question_digest(request.url.path, asked)
    page = _Page(question, digest, limit, _checked_key(cursor, digest, question.key))
    version = await service.version.current()
    key = (digest, limit, *page.after, *question.parameters.items(), *question.parts.items())
    if format is not JSON:
        tag = f"W/{etag(repr((version, format.name, key)).encode())}"
        return await _stream(service, request, page, format, await proof(()), tag)

    async def compute() -> CachedAnswer:
        rows, next_cursor = await _json_rows(service, page)
        members = {
            "next_cursor": next_cursor,
            "coverage": (await proof(rows)).to_json(),
            **question.members(rows),
        }
        content = b'{"items":[' + b",".join(rows) + b"]," + msgspec.json.encode(members)[1:]
        return CachedAnswer(content, {"ETag": etag(content)})

    answer = await service.answers.get(key, version, compute, lambda each: len(each.body) + 500)
    return answered(request, answer.body, answer.headers)


def answered(request: Request, body: bytes, headers: Mapping[str, str], cache: str = FROM_TAPE) -> Response:
    """A JSON answer, or 304 if the client has it already."""
    all_headers = {"Cache-Control": cache, **headers}
    if matches_etag(request.headers.get("if-none-match", ""), headers.get("ETag", "")):
        return Response(status_code=304, headers=all_headers)
    return Response(body, headers=all_headers, media_type="application/json")


def matches_etag(if_none_match: str, current: str) -> bool:
    """Whether one of the client's tags is the current one."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return bool(current) and current.removeprefix("W/") in tags


def etag(content: bytes) -> str:
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def as_parameter(value: Any) -> str:
    """A value of an answer as text of a parameter: times without T and Z."""
    text = str(value)
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text):
        return text[:-1].replace("T", " ")
    return text


def _checked_key(cursor: str | None, digest: str, key: Sequence[Column]) -> list[str]:
    if cursor is None:
        return []
    values = decode_cursor(cursor, digest, len(key))
    if not all(_VALID[column.type].fullmatch(value) for column, value in zip(key, values, strict=True)):
        raise ApiError("invalid_cursor", "The cursor is not one that this API returned.")
    return values


async def _json_rows(service: Service, page: _Page) -> tuple[list[bytes], str | None]:
    """Rows of a page as JSON objects, and the cursor after them."""
    async for condition, of_range in page.ranges():
        parameters = {**page.parameters(page.limit + PREFETCH), **of_range}
        content = await service.reader.formatted(
            JSON, page.statement, parameters, **page.parts(range=condition)
        )
        if len(rows := content.splitlines()) > page.limit:
            break
    if not page.question.key or len(rows) <= page.limit:
        return rows, None
    last = msgspec.json.decode(rows[page.limit - 1])
    return rows[: page.limit], page.cursor([last[column.name] for column in page.question.key])


async def _stream(
    service: Service, request: Request, page: _Page, format: Format, proof: Proof, tag: str
) -> Response:
    """Rows of a page in ClickHouse's own bytes. The last key is read first, because the cursor is a header field."""
    headers = {
        "Cache-Control": FROM_TAPE,
        "ETag": tag,
        "X-Coverage": msgspec.json.encode(proof.to_json()).decode(),
        **page.question.headers,
    }
    if matches_etag(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    parameters, parts = page.parameters(page.limit), page.parts()
    if page.question.key:
        async for condition, of_range in page.ranges():
            ends = await service.reader.rows("page_end", parameters | of_range, **page.parts(range=condition))
            if len(ends) == 2:
                break
        if len(ends) == 2:
            last = [as_parameter(ends[0][column.name]) for column in page.question.key]
            headers["X-Next-Cursor"] = page.cursor(last)
            # A row that is inserted meanwhile belongs to the page, whose end is fixed.
            parameters |= {f"last_{number}": value for number, value in enumerate(last)}
            parameters["limit"] = 2 * page.limit
            parts["until_last"] = page.compared("last", "<=" if page.question.order == "asc" else ">=")
    statement = page.statement
    if format is ARROW and (seconds := columns_in_seconds(page.question.table)):
        parts |= {
            "answer": f"<{statement}>",
            "columns": ", ".join(f"toDateTime64({name}, 3, 'UTC') as {name}" for name in seconds),
        }
        statement = "with_arrow_times"
    chunks = await service.reader.stream(format, statement, parameters, **parts)
    return StreamingResponse(chunks, headers=headers, media_type=format.media_type)
