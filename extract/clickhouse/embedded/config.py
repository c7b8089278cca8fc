"""What the embedded server reads: config.xml and users.xml, rendered from our settings into its directory.

The engine of the wheel has no writable access storage (it refuses CREATE USER and GRANT), so users and grants
stand in users.xml.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.roles import role_passwords, users_xml_entries
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError

# All that dlt, dbt and an analyst need, one by one; what is not named is closed. In particular: nothing that
# reads files, hosts or programs (file, url, remote, s3, executable, …), no users and grants, no SHUTDOWN, no
# listeners. Everyone may kill queries of their own without KILL QUERY. CREATE DICTIONARY is closed: the
# engine, which takes itself for clickhouse-local, runs any command that a dictionary has as its source.
TAPE_PRIVILEGES = (
    "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, "
    "CREATE TEMPORARY VIEW, DROP, UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, "
    "SYSTEM FLUSH LOGS, SYSTEM MERGES, SYSTEM TTL MERGES, SYSTEM VIEWS, SYSTEM DROP CACHE"
)
MERGE_TREES = ("", "Replacing", "Summing", "Aggregating", "Collapsing", "VersionedCollapsing")
TAPE_ENGINES = (
    *(f"{kind}MergeTree" for kind in MERGE_TREES),
    *("Memory", "Log", "TinyLog", "StripeLog", "Null", "Set", "Join", "Buffer", "Merge", "GenerateRandom"),
    *("View", "MaterializedView"),
)
# `default` is the session that starts the listeners and holds them open. It can have no password; but as it
# may have one session only, which it holds for as long as the server lives, nobody can log in as `default`.
BOOTSTRAP_PRIVILEGES = "SYSTEM LISTEN, CREATE TEMPORARY TABLE"

# A stop waits for idle connections as long as they are kept alive; 30 s is the engine's default.
KEEP_ALIVE_S = 3
LOG_FILE_BYTES = 10_000_000
LOG_FILES = 3
QUERY_LOG_DAYS = 14
MEMORY_SHARE = 0.6


def require_renderable(settings: ClickHouseSettings) -> None:
    """The user's name is an element of users.xml, and `default` is taken."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", settings.user) or settings.user == "default":
        raise UsageError(
            f"CLICKHOUSE_LOCAL_USER is {settings.user!r}; "
            "the embedded ClickHouse takes letters, digits and underscores, and not default."
        )


def write(home: ServerHome, settings: ClickHouseSettings, *, tcp_port: int | None) -> None:
    """Both files, readable by their owner alone."""
    config = config_xml(settings, tcp_port=tcp_port, log_dir=home.log_dir)
    for name, text in (("config.xml", config), ("users.xml", users_xml(settings, role_passwords()))):
        path = home.path / name
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)


def config_xml(settings: ClickHouseSettings, *, tcp_port: int | None, log_dir: Path) -> str:
    """The server's settings. `log-level` is the one that counts: the engine ignores `logger.level`."""
    address = "::1" if settings.host == "::1" else "127.0.0.1"
    return f"""<clickhouse>
    <listen_host>{address}</listen_host>
    <http_port>{settings.port}</http_port>
    {f"<tcp_port>{tcp_port}</tcp_port>" if tcp_port else ""}
    <users_config>users.xml</users_config>
    <timezone>UTC</timezone>
    <keep_alive_timeout>{KEEP_ALIVE_S}</keep_alive_timeout>
    <log-level>information</log-level>
    <logger>
        <log>{escape(str(log_dir / "clickhouse.log"))}</log>
        <errorlog>{escape(str(log_dir / "clickhouse.err.log"))}</errorlog>
        <size>{LOG_FILE_BYTES}</size>
        <count>{LOG_FILES}</count>
    </logger>
    <max_server_memory_usage>{memory_limit_bytes()}</max_server_memory_usage>
    <mark_cache_size>{256 * 1024**2}</mark_cache_size>
    <query_log>
        <database>system</database>
        <table>query_log</table>
        <partition_by>event_date</partition_by>
        <ttl>event_date + INTERVAL {QUERY_LOG_DAYS} DAY DELETE</ttl>
        <flush_interval_milliseconds>1000</flush_interval_milliseconds>
    </query_log>
</clickhouse>
"""


def users_xml(settings: ClickHouseSettings, passwords: Mapping[str, str]) -> str:
    """The user of `settings`, the locked `default`, and roles by their `passwords`; of each only its SHA-256."""
    sha256 = hashlib.sha256(settings.password.encode()).hexdigest()
    grants = [
        f"GRANT {TAPE_PRIVILEGES} ON *.*",
        *(f"GRANT TABLE ENGINE ON {engine}" for engine in TAPE_ENGINES),
    ]
    return f"""<clickhouse>
    <profiles>
        <default/>
        <tape>
            <constraints>
                <add_http_cors_header><readonly/></add_http_cors_header>
                <merge_tree_disk><readonly/></merge_tree_disk>
                <merge_tree_table_disk><readonly/></merge_tree_table_disk>
            </constraints>
        </tape>
        <bootstrap><max_sessions_for_user>1</max_sessions_for_user></bootstrap>
    </profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <no_password/>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>bootstrap</profile>
            <quota>default</quota>
            <grants><query>GRANT {BOOTSTRAP_PRIVILEGES} ON *.*</query></grants>
        </default>
        <{settings.user}>
            <password_sha256_hex>{sha256}</password_sha256_hex>
            <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
            <profile>tape</profile>
            <quota>default</quota>
            <grants>{"".join(f"<query>{grant}</query>" for grant in grants)}</grants>
        </{settings.user}>{users_xml_entries(passwords, excluded=settings.user)}
    </users>
</clickhouse>
"""


def memory_limit_bytes() -> int:
    """A share of this machine's memory, so that a query that is too large fails and nothing else does."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)
