"""A ClickHouse Cloud service that sleeps: it is woken by the first request, and waited for.

Until it is up it lets requests hang, refuses connections or answers 503, and so does one's own server that is being
started behind its edge (502).
"""

from __future__ import annotations

import sys
import time
from typing import Any

from urllib3 import PoolManager, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as HttpTimeout

from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import RetriableError

ASLEEP_STATUSES = frozenset({502, 503, 504})
PING_S = 5.0
PAUSE_S = 0.5


def wait_until_awake(settings: ClickHouseSettings, pool: PoolManager) -> None:
    """Returns when the service answers, whatever it says; at once if it is not to be waited for.

    Says on standard error that it waits, and for how long. Raises RetriableError after `settings.wake_s`.
    """
    if not settings.wake_s:
        return
    began = time.monotonic()
    deadline = began + settings.wake_s
    is_waiting = False
    while reason := _why_asleep(settings, pool, max(0.1, min(PING_S, deadline - time.monotonic()))):
        if time.monotonic() + PAUSE_S >= deadline:
            prefix = f"CLICKHOUSE_{settings.mode.upper()}"
            raise RetriableError(
                f"ClickHouse at {settings.url} {reason}, for {settings.wake_s} s now; check {prefix}_HOST and "
                f"{prefix}_PORT, or wait longer: {prefix}_WAKE_S"
            )
        if not is_waiting:
            is_waiting = True
            _say(
                f"ClickHouse at {settings.url} {reason}; it may be waking up: waiting up to {settings.wake_s} s."
            )
        time.sleep(PAUSE_S)
    if is_waiting:
        _say(f"ClickHouse at {settings.url} is awake after {time.monotonic() - began:.0f} s.")


def _why_asleep(settings: ClickHouseSettings, pool: PoolManager, timeout_s: float) -> str | None:
    """None for one that answers, and for failures that waiting does not mend: the next request will tell of those."""
    options: dict[str, Any] = {"timeout": Timeout(timeout_s), "retries": False}
    try:
        status = pool.request("GET", f"{settings.url}/ping", **options).status
    except NameResolutionError:
        return None
    except NewConnectionError as error:
        return "is not running" if isinstance(error.__cause__, ConnectionRefusedError) else None
    except (ConnectTimeoutError, HttpTimeout):
        return "does not answer"
    except (HTTPError, OSError):
        return None
    return f"answers with HTTP status {status}" if status in ASLEEP_STATUSES else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
