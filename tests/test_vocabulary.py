"""Names and docstrings keep to the project's vocabulary (see CONTRIBUTING)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract.paths import ROOT

FOLDERS = ("extract", "harness", "bench", "tests")
BANNED_IN_TEXT = re.compile(
    r"\b(told|said|stands|lies|bears|goes on|going on|puts? right|takes in|word|whoever|ours)\b",
    re.IGNORECASE,
)
BANNED_IN_NAMES = re.compile(r"(^|_)(told|said|stands|lies|bears|whoever|ours)(_|$)")
BANNED_NAMES = {"found", "word"}
"""Names that say nothing about the thing they name."""

PROPER_LOWER_CASE = ("dbt", "dlt", "kill")
"""Names of programs that are written in lower case."""

Place = tuple[int, str]


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def documented(tree: ast.Module) -> Iterator[Place]:
    """Docstrings of modules, classes and functions, and of the constants that precede a bare string."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value


def names(tree: ast.Module) -> Iterator[Place]:
    """Every name that the code defines: functions, classes, arguments, variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def violations(text: str) -> list[Place]:
    tree = ast.parse(text)
    in_text = [(line, match[0]) for line, doc in documented(tree) if (match := BANNED_IN_TEXT.search(doc))]
    in_names = [
        (line, name)
        for line, name in names(tree)
        if name in BANNED_NAMES or BANNED_IN_NAMES.search(name.lower())
    ]
    return sorted(in_text + in_names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_and_docstrings_use_the_vocabulary(folder: str) -> None:
    """No name and no docstring uses a term that the style rules reject."""
    offences = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in sources()
        if path.relative_to(ROOT).parts[0] == folder
        for line, text in violations(path.read_text())
    ]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_has_a_docstring_that_starts_with_a_capital(folder: str) -> None:
    """The docstring of each module begins with a sentence or a noun phrase."""
    offences = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.relative_to(ROOT).parts[0] == folder and (text := path.read_text()).strip()
        if not (doc := ast.get_docstring(ast.parse(text)))
        or not (doc[0].isupper() or doc[0] == "`" or doc.startswith(PROPER_LOWER_CASE))
    ]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize(
    "text",
    [
        '"""What is told to the user."""',
        "def f():\n    '''It goes on where it was.'''",
        "found = 1",
        "def told_of(): ...",
        "def f(what_said): ...",
        "for word in (): ...",
        "class Told: ...",
    ],
)
def test_the_check_rejects(text: str) -> None:
    """The check sees a banned term in each place where one can be."""
    assert violations(text)
