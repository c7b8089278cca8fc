"""Formats of an answer, and which one a request wants."""

from __future__ import annotations

from dataclasses import dataclass

from extract.serve.errors import ApiError


@dataclass(frozen=True)
class Format:
    """A format of rows: its name in `format=`, its media type, and its name in ClickHouse."""

    name: str
    media_type: str
    clickhouse: str
    max_limit: int


JSON = Format("json", "application/json", "JSONEachRow", 10_000)
ARROW = Format("arrow", "application/vnd.apache.arrow.stream", "ArrowStream", 1_000_000)
PARQUET = Format("parquet", "application/vnd.apache.parquet", "Parquet", 1_000_000)
CSV = Format("csv", "text/csv", "CSVWithNames", 1_000_000)
FORMATS = {each.name: each for each in (JSON, ARROW, PARQUET, CSV)}
_BY_MEDIA_TYPE = {
    **{each.media_type: each for each in FORMATS.values()},
    "*/*": JSON,
    "application/*": JSON,
    "text/*": CSV,
}


def chosen_format(name: str | None, accept: str) -> Format:
    """The format of `format=`, or the one that `Accept` prefers. Raises ApiError if there is none."""
    if name is not None:
        return FORMATS[name]
    if not accept:
        return JSON
    wanted: list[tuple[float, int, Format]] = []
    for place, part in enumerate(accept.split(",")):
        media_type, *options = (text.strip().lower() for text in part.split(";"))
        quality = next((_quality(option[2:]) for option in options if option.startswith("q=")), 1.0)
        if quality > 0 and media_type in _BY_MEDIA_TYPE:
            wanted.append((-quality, place, _BY_MEDIA_TYPE[media_type]))
    if not wanted:
        media_types = ", ".join(each.media_type for each in FORMATS.values())
        raise ApiError(
            "not_acceptable", f"None of the formats in Accept is available; there are {media_types}."
        )
    return min(wanted, key=lambda each: each[:2])[2]


def require_json(accept: str) -> None:
    """Raise ApiError if `Accept` excludes JSON."""
    if chosen_format(None, accept) is not JSON:
        raise ApiError("not_acceptable", "This answer is available as application/json only.")


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
