"""Render the configuration of the embedded server: config.xml, users.xml and one function.

The engine of the wheel has no writable access storage (it rejects CREATE USER and GRANT), so users, rights and limits
are in users.xml.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.password import ensure_password
from extract.clickhouse.roles import role_passwords, users_xml_entries, users_xml_profiles, users_xml_quotas
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError

# Everything that dlt, dbt and an analyst need; all else is denied. In particular: nothing that reads files, hosts or
# programs (file, url, remote, s3, executable, …), no users and grants, no SHUTDOWN, no listeners or HTTP handlers. No
# dictionaries: the engine, running as clickhouse-local, executes any command that a dictionary names as its source.
# Everyone may kill their own queries without KILL QUERY.
TAPE_PRIVILEGES = (
    "SHOW, SELECT, INSERT, ALTER TABLE, ALTER VIEW, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, "
    "CREATE TEMPORARY VIEW, DROP DATABASE, DROP TABLE, DROP VIEW, UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, "
    "SYSTEM FLUSH LOGS, SYSTEM MERGES, SYSTEM TTL MERGES, SYSTEM VIEWS, SYSTEM DROP CACHE"
)
MERGE_TREES = ("", "Replacing", "Summing", "Aggregating", "Collapsing", "VersionedCollapsing")
TAPE_ENGINES = (
    *(f"{kind}MergeTree" for kind in MERGE_TREES),
    *("Memory", "Log", "TinyLog", "StripeLog", "Null", "Set", "Join", "Buffer", "Merge", "GenerateRandom"),
    *("View", "MaterializedView"),
)
# `default` is the session that starts the listeners and keeps them open. It cannot have a password. It may have one
# session only, which lasts as long as the server, so no one can log in as `default`.
BOOTSTRAP_PRIVILEGES = "SYSTEM LISTEN, CREATE TEMPORARY TABLE"
# Settings that name a file, a host, a response header of a query or a program: no user can change them.
FIXED_SETTINGS = (
    *("add_http_cors_header", "http_response_headers", "allow_python_table_function"),
    *("merge_tree_disk", "merge_tree_table_disk", "filesystem_cache_name", "default_view_definer"),
    *("output_format_schema", "format_schema", "format_schema_source", "format_schema_message_name"),
    *("format_template_resultset", "format_template_row", "input_format_record_errors_file_path"),
    *("rename_files_after_processing", "format_avro_schema_registry_url", "url_base", "s3_base"),
    *("into_outfile_create_parent_directories", "allow_introspection_functions", "dialect"),
    *("ai_function_text_default_credentials", "ai_function_embedding_default_credentials"),
)
# The engine lets any user read any file by the scalar function file(), without a privilege. A function of the same
# name, loaded at the start, takes precedence over it.
NO_FILE_FUNCTION = (
    "CREATE FUNCTION file AS (path) -> throwIf(1, 'The function file() is disabled on this server.')"
)
# Requests for another host name are refused: a web page can point its own name at 127.0.0.1 (DNS rebinding).
LOOPBACK_HOST = r"(?i)(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"

# A stop waits for idle connections until they time out; 30 s is the engine's default. A client may send a request just as
# its idle connection times out, and statements that write are not sent again: with 3 s, that happened in builds by dbt.
KEEP_ALIVE_S = 10
LOG_FILE_BYTES = 10_000_000
LOG_FILES = 3
QUERY_LOG_DAYS = 14
# Each thread has three files open, and would stay for ever: a burst of queries would leave up to a thousand of them.
IDLE_THREADS = 32
MEMORY_SHARE = 0.6


def require_renderable(settings: ClickHouseSettings) -> None:
    """Raise UsageError if the user's name cannot be an element of users.xml, or is `default`."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", settings.user) or settings.user == "default":
        raise UsageError(
            f"CLICKHOUSE_LOCAL_USER is {settings.user!r}; the embedded ClickHouse accepts a name of letters, digits and "
            "underscores other than default."
        )


def write(home: ServerHome, settings: ClickHouseSettings, *, tcp_port: int | None) -> None:
    """Write the files that `process` expects in `home.run`, readable only by their owner."""
    files = {
        "config.xml": config_xml(settings, tcp_port=tcp_port, home=home),
        # The API, the page and the client log in as the reader, so it has a password even if the environment names none.
        "users.xml": users_xml(
            settings, {"reader": ensure_password(home.path.parent, "reader"), **role_passwords()}
        ),
        "functions/function_file.sql": NO_FILE_FUNCTION,
    }
    for name, text in files.items():
        path = home.run / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)


def config_xml(settings: ClickHouseSettings, *, tcp_port: int | None, home: ServerHome) -> str:
    """Return the server's settings. `log-level` sets the level; the engine ignores `logger.level`."""
    address = "::1" if settings.host == "::1" else "127.0.0.1"
    return f"""<clickhouse>
    <listen_host>{address}</listen_host>
    <http_port>{settings.port}</http_port>
    {f"<tcp_port>{tcp_port}</tcp_port>" if tcp_port else ""}
    <http_handlers>
        {_handler("<url>/ping</url><methods>GET,HEAD</methods>", "ping")}
        {_handler("<url>/play</url><methods>GET</methods>", "play")}
        {_handler("<url>/</url>", "dynamic_query_handler")}
    </http_handlers>
    <http_options_response><header><name>Vary</name><value>Origin</value></header></http_options_response>
    <users_config>users.xml</users_config>
    <user_defined_path>{escape(str(home.run / "functions"))}</user_defined_path>
    <timezone>UTC</timezone>
    <keep_alive_timeout>{KEEP_ALIVE_S}</keep_alive_timeout>
    <log-level>information</log-level>
    <logger>
        <log>{escape(str(home.log_dir / "clickhouse.log"))}</log>
        <errorlog>{escape(str(home.log_dir / "clickhouse.err.log"))}</errorlog>
        <size>{LOG_FILE_BYTES}</size>
        <count>{LOG_FILES}</count>
    </logger>
    <max_server_memory_usage>{memory_limit_bytes()}</max_server_memory_usage>
    <mark_cache_size>{256 * 1024**2}</mark_cache_size>
    <max_thread_pool_free_size>{IDLE_THREADS}</max_thread_pool_free_size>
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
    """Return the user of `settings`, the locked `default` and the roles in `passwords`, with hashes of the passwords."""
    sha256 = hashlib.sha256(settings.password.encode()).hexdigest()
    grants = [
        f"GRANT {TAPE_PRIVILEGES} ON *.*",
        *(f"GRANT TABLE ENGINE ON {engine}" for engine in TAPE_ENGINES),
    ]
    # A user can select any profile. That `default` sets max_execution_time keeps roles, which must not set 0, out of it.
    fixed = "".join(f"<{name}><readonly/></{name}>" for name in FIXED_SETTINGS)
    return f"""<clickhouse>
    <profiles>
        <default>
            <allow_python_table_function>0</allow_python_table_function>
            <max_execution_time>0</max_execution_time>
            <constraints>{fixed}</constraints>
        </default>
        {users_xml_profiles(memory_limit_bytes() * 9 // 10)}
        <bootstrap><profile>default</profile><max_sessions_for_user>1</max_sessions_for_user></bootstrap>
    </profiles>
    <quotas><default/>{users_xml_quotas()}</quotas>
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
            <profile>default</profile>
            <quota>default</quota>
            <grants>{"".join(f"<query>{grant}</query>" for grant in grants)}</grants>
        </{settings.user}>{users_xml_entries(passwords, excluded=settings.user)}
    </users>
</clickhouse>
"""


def _handler(rule: str, kind: str) -> str:
    """Return a rule of `http_handlers` that only applies to requests for a loopback host name."""
    headers = f"<headers><Host>regex:{escape(LOOPBACK_HOST)}</Host></headers>"
    return f"<rule>{rule}{headers}<handler><type>{kind}</type></handler></rule>"


def memory_limit_bytes() -> int:
    """Return the memory limit of the server, so that an excessive query fails instead of the machine."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)
