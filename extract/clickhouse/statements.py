"""Named SQL statements, read from a .sql file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def load_statements(module: str, file_name: str) -> dict[str, str]:
    """Statement by name, from a file next to the file of a module. A line `-- name: NAME` precedes each statement."""
    text = Path(module).with_name(file_name).read_text(encoding="utf-8")
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def render(sql: str, resolve: Callable[[str], str]) -> str:
    """`sql` with each placeholder `<name>` replaced by `resolve(name)`."""
    return re.sub(r"<(\w+)>", lambda placeholder: resolve(placeholder[1]), sql)
