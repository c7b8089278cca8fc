"""The output quoted in docs/cost.md is what its commands print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pytest

from extract.paths import ROOT
from tests.support.commands import Done

PAGE = (ROOT / "docs" / "cost.md").read_text()
BLOCKS = re.findall(r"```console\n\$ tape (.+)\n((?:.*\n)+?)```", PAGE)


@pytest.mark.parametrize(("words", "quoted"), BLOCKS, ids=[words for words, _ in BLOCKS])
def test_quoted_output_is_current(
    cloud_env: pytest.MonkeyPatch, tape: Callable[..., Done], words: str, quoted: str
) -> None:
    """Each block is a contiguous part of the output."""
    cloud_env.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    for name in ("REQUESTS_PER_SECOND", "SERIES"):
        cloud_env.delenv(f"SOURCES__DERIBIT__{name}", raising=False)
    done = tape(*shlex.split(words))
    assert done.code == 0
    assert quoted in done.out


def test_figures_of_the_summary_are_in_quoted_output() -> None:
    summary = PAGE.split("In short", 1)[1].split("## ", 1)[0]
    figures = set(re.findall(r"\d+\.\d\d", summary))
    assert len(figures) > 10
    printed = {figure for _, quoted in BLOCKS for figure in re.findall(r"\d+\.\d\d", quoted)}
    assert figures <= printed
    assert len(BLOCKS) == 5
