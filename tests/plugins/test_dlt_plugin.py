"""`dlt pipeline run` starts page workers early only where it will need them, and ends with a sentence and a code."""

from __future__ import annotations

import argparse

import pytest

from extract.plugins.dlt_plugin import RunCommand, expects_many_pages


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    RunCommand().configure_parser(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("has_run", "since", "plan", "expected"),
    [
        (False, None, False, True),
        (True, None, False, False),
        (True, "2020-01-01", False, True),
        (False, "2020-01-01", True, False),
    ],
    ids=["first run", "increment", "back in time", "estimate only"],
)
def test_many_pages_are_expected_of_first_runs_and_backfills(
    has_run: bool, since: str | None, plan: bool, expected: bool
) -> None:
    """Workers start while the process imports, so the decision needs no request."""
    assert expects_many_pages(plan=plan, since=since, has_run=has_run) is expected


@pytest.mark.parametrize("words", [("--since", "yesterday"), ("--until", "2026-13-01", "--plan")])
def test_text_that_is_no_time_is_refused_before_anything_is_reached(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither ClickHouse, nor the lock of a run that is in progress, nor the exchange is needed to see the mistake."""
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    with pytest.raises(SystemExit) as ended:
        RunCommand().execute(arguments(*words))
    assert ended.value.code == 3
    assert capsys.readouterr().err.startswith(
        f"{words[0]} '{words[1]}' is not a time; write it like 2025-01-31"
    )


def test_interrupted_run_ends_with_a_sentence_and_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C shows no traceback."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("extract.estimate.plan.make_plan", interrupt)
    with pytest.raises(SystemExit) as ended:
        RunCommand().execute(arguments("--plan"))
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted; the same command resumes.\n"
