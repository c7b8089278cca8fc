"""Named SQL statements, read from a .sql file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def load_statements(path: Path) -> dict[str, str]:
    """Statement by name. In the file, a line `-- name: NAME` precedes each statement."""
    _, *parts = re.split(r"^-- name: (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def render(sql: str, resolve: Callable[[str], str]) -> str:
    """`sql` with each placeholder `<name>` replaced by `resolve(name)`."""
    return re.sub(r"<(\w+)>", lambda placeholder: resolve(placeholder[1]), sql)
