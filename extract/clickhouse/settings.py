"""Connection settings of ClickHouse from environment variables, for dlt and `tape`.

The dbt profile reads the same variables, see `profiles/profiles.yml`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.password import read_password
from extract.errors import UsageError
from extract.paths import tape_dir
from extract.proxies import LOOPBACK_HOSTS

DEFAULT_RAW_DATABASE = "deribit_raw"


def database_name(variable: str, default: str, env: Mapping[str, str] = os.environ) -> str:
    """Name of a database from an environment variable. Raises UsageError where it is not a plain identifier."""
    name = env.get(variable) or default
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError(f"{variable} is {name!r}; set it to a name of letters, digits and underscores.")
    return name


RAW_DATABASE = database_name("TAPE_RAW_SCHEMA", DEFAULT_RAW_DATABASE)
MART_DATABASE = database_name("TAPE_SCHEMA", "deribit")
RUNS_DATABASE = "deribit_runs" if RAW_DATABASE == DEFAULT_RAW_DATABASE else f"{RAW_DATABASE}_runs"
"""Lease and started load packages of the raw database; each raw database has a separate one."""

IS_REPLICATED = os.environ.get("TAPE_REPLICATED") not in (None, "", "0")
"""Whether the databases have the engine `Replicated`, on a cluster of one's own: tables get replicated engines.

ClickHouse Cloud replicates tables of any engine, and needs no variable.
"""

QUORUM_SETTINGS: Mapping[str, str | int] = {
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
    "insert_quorum_timeout": 120_000,
}
"""On a replicated cluster: most replicas have what was inserted, so that `select_sequential_consistency` holds."""

LOCAL_USER = "tape"
READER = "reader"
ALLOW_PLAIN_HTTP = "CLICKHOUSE_LOCAL_ALLOW_PLAIN_HTTP"
MAX_PORT = 65_535
MAX_WAKE_S = 3_600
MAX_DIGITS = 18
"""Python refuses to read a number of thousands of digits."""
WAKE_S = 90  # an idle ClickHouse Cloud service takes up to a minute to start


@dataclass(frozen=True)
class ClickHouseSettings:
    """Connection settings of one ClickHouse over HTTP(S); `repr` omits the password."""

    mode: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    secure: bool = False
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    wake_s: int = 0
    """Seconds to wait for an idle service to start; 0 does not wait."""
    is_generated: bool = False
    """Whether the password is the random one of `tape up`, which only that server may receive."""

    @property
    def url(self) -> str:
        """`http(s)://host:port`, without credentials."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}"

    @property
    def env_prefix(self) -> str:
        """Prefix of the environment variables of this mode."""
        return f"CLICKHOUSE_{self.mode.upper()}"

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK_HOSTS


def current_mode(env: Mapping[str, str] = os.environ) -> str:
    """`CLICKHOUSE_MODE`: `local` (the default) or `cloud`."""
    mode = env.get("CLICKHOUSE_MODE") or "local"
    if mode not in ("local", "cloud"):
        raise UsageError(f"CLICKHOUSE_MODE is {mode!r}; set it to local or cloud.")
    return mode


def clickhouse_settings(mode: str | None = None, env: Mapping[str, str] = os.environ) -> ClickHouseSettings:
    """Settings of `mode`, by default the current one. Raises UsageError that names a missing variable."""
    mode = mode or current_mode(env)
    return _cloud(env) if mode == "cloud" else _local(env)


def reader_settings(mode: str | None = None, env: Mapping[str, str] = os.environ) -> ClickHouseSettings:
    """Settings of `mode` with the login of the role reader: CLICKHOUSE_READER_PASSWORD, or the embedded server's own.

    A client certificate, or the configured login of a server whose reader has no password here, is used as it is.
    """
    mode = mode or current_mode(env)
    prefix, password = f"CLICKHOUSE_{mode.upper()}", env.get("CLICKHOUSE_READER_PASSWORD") or ""
    if mode == "cloud" and env.get("CLICKHOUSE_CLOUD_CLIENT_CERT"):
        return _cloud(env)
    if password:
        return clickhouse_settings(mode, {**env, f"{prefix}_USER": READER, f"{prefix}_PASSWORD": password})
    settings = clickhouse_settings(mode, env)
    directory = Path(env.get("TAPE_DIR") or tape_dir()).resolve()
    if mode == "cloud" or ServerHome(directory).running_port() != settings.port:
        return settings
    return replace(settings, user=READER, password=read_password(directory, READER), is_generated=True)


def _local(env: Mapping[str, str]) -> ClickHouseSettings:
    host = env.get("CLICKHOUSE_LOCAL_HOST") or "localhost"
    password = env.get("CLICKHOUSE_LOCAL_PASSWORD") or ""
    settings = ClickHouseSettings(
        mode="local",
        # The embedded server listens on IPv4; on ::1, another user's program may listen at the same port.
        host="127.0.0.1" if host == "localhost" else host,
        port=_port(env, "CLICKHOUSE_LOCAL_PORT", 8123),
        user=env.get("CLICKHOUSE_LOCAL_USER") or LOCAL_USER,
        password=password or read_password(Path(env.get("TAPE_DIR") or tape_dir()).resolve()),
        is_generated=not password,
    )
    if not settings.is_loopback:
        if not password:
            raise UsageError(f"CLICKHOUSE_LOCAL_PASSWORD is not set; ClickHouse at {host} needs it.")
        if not env.get(ALLOW_PLAIN_HTTP):
            raise UsageError(
                f"The password would go to {host} over plain HTTP, readable on the way: use CLICKHOUSE_MODE=cloud "
                f"with HTTPS, or allow it by {ALLOW_PLAIN_HTTP}=1."
            )
    return settings


def _cloud(env: Mapping[str, str]) -> ClickHouseSettings:
    host, port = cloud_address(env)
    client_cert = env.get("CLICKHOUSE_CLOUD_CLIENT_CERT") or None
    password = env.get("CLICKHOUSE_CLOUD_PASSWORD") or ""
    if not password and not client_cert:
        raise UsageError(
            "CLICKHOUSE_CLOUD_PASSWORD is not set; CLICKHOUSE_MODE=cloud needs it, or a client certificate: "
            "CLICKHOUSE_CLOUD_CLIENT_CERT and CLICKHOUSE_CLOUD_CLIENT_KEY."
        )
    return ClickHouseSettings(
        mode="cloud",
        host=host,
        port=port,
        user=env.get("CLICKHOUSE_CLOUD_USER") or "default",
        password=password,
        secure=True,
        ca_cert=env.get("CLICKHOUSE_CLOUD_CA_CERT") or None,
        client_cert=client_cert,
        client_key=env.get("CLICKHOUSE_CLOUD_CLIENT_KEY") or None,
        wake_s=_wake_s(env),
    )


def cloud_address(env: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port of the target cloud. Raises UsageError that names a missing or wrong variable."""
    if not (host := env.get("CLICKHOUSE_CLOUD_HOST")):
        raise UsageError("CLICKHOUSE_CLOUD_HOST is not set; CLICKHOUSE_MODE=cloud needs it.")
    return host, _port(env, "CLICKHOUSE_CLOUD_PORT", 8443)


def cloud_address_if_set(env: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """Host and port of the target cloud, None if CLICKHOUSE_CLOUD_HOST is not set."""
    return cloud_address(env) if env.get("CLICKHOUSE_CLOUD_HOST") else None


def _wake_s(env: Mapping[str, str]) -> int:
    text = env.get("CLICKHOUSE_CLOUD_WAKE_S") or str(WAKE_S)
    if not is_number(text, MAX_WAKE_S):
        raise UsageError(
            f"CLICKHOUSE_CLOUD_WAKE_S is {text!r}; set it to at most {MAX_WAKE_S:,} seconds, 0 not to wait."
        )
    return int(text)


def is_number(text: str, most: int) -> bool:
    """Whether `text` is a whole number from 0 to `most`."""
    return text.isdecimal() and len(text) <= MAX_DIGITS and int(text) <= most


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not is_number(text, MAX_PORT) or int(text) == 0:
        raise UsageError(f"{name} is {text!r}; set it to a port number, for example {default}.")
    return int(text)
