"""What a process that is ours from its start to its end does without: a second of its start, and much after it."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

SINGLE_THREADED_BLAS = {"OPENBLAS_NUM_THREADS": "1"}
"""Environment of a numpy without threads of its own, which would wait in a busy loop."""


NATIVE_CLIENT = {
    "clickhouse_driver": "",
    "clickhouse_driver.errors": "",
    "clickhouse_driver.dbapi": "Connection Error OperationalError",
    "clickhouse_driver.dbapi.connection": "Connection",
    "clickhouse_driver.dbapi.errors": "OperationalError InternalError DataError ProgrammingError IntegrityError",
    "clickhouse_driver.dbapi.extras": "DictCursor",
}
"""Modules of the client of ClickHouse's native protocol, with the names that dlt's destination imports of them."""


class _BlockPandas:
    """A finder that says no to pandas, which comes with the embedded ClickHouse.

    pyarrow imports it wherever it is, for a third of a second, to tell its arrays from lists.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError(f"{name} is not wanted here", name=name)
        return None


def configure_process() -> None:
    """Before anything large is imported. The collector is off until `gc_frozen`: what is imported is no garbage."""
    sys.meta_path.insert(0, _BlockPandas())
    _name_native_client()
    os.environ.update(SINGLE_THREADED_BLAS)
    gc.disable()
    atexit.register(gc.freeze)  # nor at the end, when all of it goes anyway


def _name_native_client() -> None:
    """Ours is dlt's destination in all but what speaks to the server: that is HTTP. A tenth of the start is saved."""
    for path, names in NATIVE_CLIENT.items():
        module = sys.modules[path] = ModuleType(path)
        module.__path__ = []
        for name in names.split():
            setattr(module, name, type(name, (Exception,), {}))
        above, _, last = path.rpartition(".")
        if above:
            setattr(sys.modules[above], last, module)


@contextmanager
def gc_frozen() -> Iterator[None]:
    """The collector leaves alone what was there before: all that was ever imported, again and again."""
    gc.freeze()
    gc.enable()
    try:
        yield
    finally:
        gc.unfreeze()
