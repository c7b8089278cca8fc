"""What the handlers of all routes have in common: the service of a request, lists over time, documented answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import Response

from extract.serve.errors import STATUSES
from extract.serve.formats import FORMATS, JSON
from extract.serve.listing import Column, ProofOf, Question, answer_list
from extract.serve.parameters import Cursor, FormatName, Limit, Order, Since, Until, time_range
from extract.serve.service import Service
from extract.times import sql_time

Answers = dict[int | str, dict[str, Any]]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]


@dataclass(frozen=True)
class TimeList:
    """A request for one page of a list over time, with the parameters that all of these lists have."""

    service: Service
    request: Request
    since: str | None
    until: str | None
    order: Order
    limit: int
    cursor: str | None
    format_name: str | None

    @cached_property
    def range_ms(self) -> tuple[int, int]:
        """Start and end in milliseconds. Raises ApiError if the end is not after the start."""
        return time_range(self.since, self.until)

    def question(
        self, statement: str, parameters: Mapping[str, Any], key: Sequence[Column], table: str = ""
    ) -> Question:
        """The question of a statement with the parameters `since` and `until` and others."""
        since, until = (sql_time(at_ms) for at_ms in self.range_ms)
        return Question(
            statement, {**parameters, "since": since, "until": until}, key, table, order=self.order
        )

    async def answer(self, question: Question, proof: ProofOf) -> Response:
        """The page, in the format of the request."""
        return await answer_list(
            self.service,
            self.request,
            question,
            proof,
            limit=self.limit,
            cursor=self.cursor,
            format_name=self.format_name,
        )

    async def answer_series(self, question: Question, series: str, keys: Sequence[str]) -> Response:
        """The page, with the proof of some keys of a series."""
        return await self.answer(
            question, lambda rows: self.service.proof_of_series(series, keys, *self.range_ms)
        )


def _time_list(
    request: Request,
    service: TheService,
    since: Since = None,
    until: Until = None,
    order: Order = "asc",
    limit: Limit = 1000,
    cursor: Cursor = None,
    format: FormatName = None,
) -> TimeList:
    return TimeList(service, request, since, until, order, limit, cursor, format)


TheTimeList = Annotated[TimeList, Depends(_time_list)]

_NOT_MODIFIED = {"description": "The client has this answer already."}
_COVERAGE_HEADERS = {
    "X-Coverage": {
        "description": "In other formats than JSON: the member `coverage`.",
        "schema": {"type": "string"},
    },
    "X-Next-Cursor": {"description": "In other formats than JSON: the cursor.", "schema": {"type": "string"}},
}


def json_content(schema: str) -> dict[str, Any]:
    """The content of an answer of a component schema."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def errors(*statuses: int) -> Answers:
    """Documented errors: those that every route has, and `statuses`."""
    documented: Answers = {}
    for status in sorted({400, 401, 403, 405, 406, 429, 503, *statuses}):
        codes = ", ".join(code for code, each in STATUSES.items() if each == status)
        documented[status] = {"description": f"Error: {codes}.", "content": json_content("Error")}
        if status in (429, 503):
            documented[status]["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
    return documented


def answers(schema: str, description: str, *statuses: int) -> Answers:
    """A JSON answer of a component schema, and the errors of a route."""
    ok = {"description": description, "content": json_content(schema)}
    return {200: ok, 304: _NOT_MODIFIED, **errors(*statuses)}


def list_answers(schema: str, description: str, *statuses: int) -> Answers:
    """A list in every format, and the errors of a route."""
    others = {
        each.media_type: {"schema": {"type": "string"}} for each in FORMATS.values() if each is not JSON
    }
    content = {**json_content(schema), **others}
    ok = {"description": description, "content": content, "headers": _COVERAGE_HEADERS}
    return {200: ok, 304: _NOT_MODIFIED, **errors(422, *statuses)}
