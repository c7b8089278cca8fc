"""Wait until an idle ClickHouse Cloud service has started.

The first request starts it. Until then requests hang, are refused or get status 503; a self-hosted server that is
starting behind the edge gives 502.
"""

from __future__ import annotations

import logging
import time

from urllib3 import PoolManager, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as HttpTimeout

from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import RetriableError

IDLE_STATUSES = frozenset({502, 503, 504})
PING_TIMEOUT_S = 5.0
PAUSE_S = 0.5

_logger = logging.getLogger(__name__)


def wait_until_awake(
    settings: ClickHouseSettings, pool: PoolManager, ping_timeout_s: float = PING_TIMEOUT_S
) -> None:
    """Return once the service responds with anything other than an idle status; at once if `settings.wake_s` is 0.

    Logs a warning with the reason and the limit of the wait, which Python prints to standard error unless the
    application configures logging. Raises RetriableError after `settings.wake_s` seconds.
    """
    if not settings.wake_s:
        return
    started = time.monotonic()
    deadline = started + settings.wake_s
    is_waiting = False
    while reason := _idle_reason(settings, pool, max(0.1, min(ping_timeout_s, deadline - time.monotonic()))):
        if time.monotonic() + PAUSE_S >= deadline:
            prefix = settings.env_prefix
            raise RetriableError(
                f"ClickHouse at {settings.url} {reason}, for {settings.wake_s} s now; check {prefix}_HOST and "
                f"{prefix}_PORT, or wait longer: {prefix}_WAKE_S"
            )
        if not is_waiting:
            is_waiting = True
            _logger.warning(
                f"ClickHouse at {settings.url} {reason}; it may be starting: waiting up to {settings.wake_s} s."
            )
        time.sleep(PAUSE_S)
    if is_waiting:
        _logger.warning(f"ClickHouse at {settings.url} is up after {time.monotonic() - started:.0f} s.")


def _idle_reason(settings: ClickHouseSettings, pool: PoolManager, timeout_s: float) -> str | None:
    """None if the service responds, or fails in a way that waiting does not cure; the next request reports that."""
    try:
        status = pool.request("GET", f"{settings.url}/ping", timeout=Timeout(timeout_s), retries=False).status
    except NameResolutionError:
        return None
    except NewConnectionError as error:
        return "is not running" if isinstance(error.__cause__, ConnectionRefusedError) else None
    except (ConnectTimeoutError, HttpTimeout):
        return "does not respond"
    except (HTTPError, OSError):
        return None
    return f"responds with HTTP status {status}" if status in IDLE_STATUSES else None
