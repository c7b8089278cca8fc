"""What the embedded server reads: config.xml and users.xml, rendered from our settings.

Both are read from the server's working directory. There is no writable access storage in the engine of the wheel
(CREATE USER and GRANT are refused), so users and grants stand in users.xml.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from xml.sax.saxutils import escape

# All that dbt, dlt and an analyst need, named one by one: what is not here is closed. In particular no table function
# or engine that reads files, hosts or programs (file, url, remote, s3, executable, …), no users and grants, no SHUTDOWN.
TAPE_PRIVILEGES = (
    "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE DICTIONARY, CREATE TEMPORARY TABLE, "
    "CREATE TEMPORARY VIEW, DROP, UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, dictGet, KILL QUERY, "
    "SYSTEM FLUSH LOGS, SYSTEM MERGES, SYSTEM TTL MERGES, SYSTEM MOVES, SYSTEM VIEWS, SYSTEM CLEANUP, "
    "SYSTEM DROP CACHE, SYSTEM RELOAD DICTIONARY, SYSTEM SYNC TRANSACTION LOG"
)
# Engines that keep their data in the server itself.
TAPE_ENGINES = (
    *(
        f"{kind}MergeTree"
        for kind in ("", "Replacing", "Summing", "Aggregating", "Collapsing", "VersionedCollapsing")
    ),
    *("Memory", "Null", "Log", "TinyLog", "StripeLog", "Buffer", "Join", "Set", "Merge", "Dictionary"),
)
# The session that starts the listeners is user `default` and can have no password: it may do that and nothing else.
BOOTSTRAP_PRIVILEGES = "SYSTEM LISTEN"

LOG_FILE_BYTES = 10_000_000
LOG_FILES = 3
QUERY_LOG_DAYS = 14
MEMORY_SHARE = 0.6


def write_private(path: Path, text: str) -> None:
    """Replace `path` at once; only its owner can read it."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def config_xml(*, listen_address: str, http_port: int, tcp_port: int | None, log_dir: Path) -> str:
    """The server's config.xml. `log-level` counts: the engine ignores `logger.level`."""
    tcp = f"<tcp_port>{tcp_port}</tcp_port>" if tcp_port else ""
    return f"""<clickhouse>
    <listen_host>{escape(listen_address)}</listen_host>
    <http_port>{http_port}</http_port>
    {tcp}
    <users_config>users.xml</users_config>
    <timezone>UTC</timezone>
    <log-level>information</log-level>
    <logger>
        <log>{escape(str(log_dir / "clickhouse.log"))}</log>
        <errorlog>{escape(str(log_dir / "clickhouse.err.log"))}</errorlog>
        <errorlog_level>error</errorlog_level>
        <size>{LOG_FILE_BYTES}</size>
        <count>{LOG_FILES}</count>
    </logger>
    <max_server_memory_usage>{memory_limit_bytes()}</max_server_memory_usage>
    <mark_cache_size>134217728</mark_cache_size>
    <uncompressed_cache_size>0</uncompressed_cache_size>
    <query_log>
        <database>system</database>
        <table>query_log</table>
        <partition_by>event_date</partition_by>
        <ttl>event_date + INTERVAL {QUERY_LOG_DAYS} DAY DELETE</ttl>
        <flush_interval_milliseconds>1000</flush_interval_milliseconds>
    </query_log>
</clickhouse>
"""


def users_xml(*, user: str, password: str) -> str:
    """users.xml with `user` and the locked `default`; of the password only its SHA-256."""
    engines = "".join(f"<query>GRANT TABLE ENGINE ON {engine}</query>" for engine in TAPE_ENGINES)
    sha256 = hashlib.sha256(password.encode()).hexdigest()
    return f"""<clickhouse>
    <profiles>
        <default/>
        <tape/>
    </profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <no_password/>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT {BOOTSTRAP_PRIVILEGES} ON *.*</query></grants>
        </default>
        <{user}>
            <password_sha256_hex>{sha256}</password_sha256_hex>
            <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
            <profile>tape</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT {TAPE_PRIVILEGES} ON *.*</query>
                {engines}
            </grants>
        </{user}>
    </users>
</clickhouse>
"""


def memory_limit_bytes() -> int:
    """A share of this machine's memory, so that a large query fails instead of the machine."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(physical * MEMORY_SHARE)
