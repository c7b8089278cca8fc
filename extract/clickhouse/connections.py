"""Connection settings of other programs for this database, logged in as the reader, without a password in them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from extract.clickhouse.settings import MART_DATABASE, ClickHouseSettings

PASSWORD_VARIABLE = "CLICKHOUSE_READER_PASSWORD"


def connection_name(settings: ClickHouseSettings) -> str:
    return f"deribit-tape ({settings.mode})"


def jdbc_url(settings: ClickHouseSettings) -> str:
    """Address for Java programs. The certificate of the server is verified."""
    options: dict[str, str] = {}
    if settings.secure:
        options = {"ssl": "true", "sslmode": "strict"}
        files = {
            "sslrootcert": settings.ca_cert,
            "sslcert": settings.client_cert,
            "sslkey": settings.client_key,
        }
        options |= {name: path for name, path in files.items() if path}
    query = f"?{urlencode(options)}" if options else ""
    return f"jdbc:clickhouse://{settings.host}:{settings.port}/{MART_DATABASE}{query}"


def dsn(settings: ClickHouseSettings) -> str:
    """Addresses by program, one a line."""
    login, address = quote(settings.user), f"{settings.host}:{settings.port}/{MART_DATABASE}"
    secure = "?secure=true" if settings.secure else ""
    scheme = "clickhouses" if settings.secure else "clickhouse"
    return "\n".join(
        (
            f"clickhouse-connect  {scheme}://{login}@{address}",
            f"SQLAlchemy          clickhousedb://{login}@{address}{secure}",
            f"JDBC                {jdbc_url(settings)}",
            f"HTTP                {settings.url}/?user={login}&database={MART_DATABASE}",
        )
    )


def dbeaver(settings: ClickHouseSettings) -> str:
    """`data-sources.json` of a DBeaver project; DBeaver asks for the password."""
    configuration = {
        "host": settings.host,
        "port": str(settings.port),
        "database": MART_DATABASE,
        "url": jdbc_url(settings),
        "configurationType": "MANUAL",
        "type": "prod" if settings.mode == "cloud" else "dev",
        "auth-model": "native",
        "user": settings.user,
    }
    source = {
        "provider": "clickhouse",
        "driver": "com_clickhouse",
        "name": connection_name(settings),
        "save-password": False,
        "read-only": True,
        "configuration": configuration,
    }
    return _json({"folders": {}, "connections": {f"deribit-tape-{settings.mode}": source}})


def datagrip(settings: ClickHouseSettings) -> str:
    """`.idea/dataSources.xml` of a DataGrip or IntelliJ project, which asks for the password."""
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{settings.url}/{settings.user}")
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<project version="4">
  <component name="DataSourceManagerImpl" format="xml" multifile-model="true">
    <data-source source="LOCAL" name="{escape(connection_name(settings))}" read-only="true" uuid="{identity}">
      <driver-ref>clickhouse</driver-ref>
      <synchronize>true</synchronize>
      <jdbc-driver>com.clickhouse.jdbc.ClickHouseDriver</jdbc-driver>
      <jdbc-url>{escape(jdbc_url(settings))}</jdbc-url>
      <user-name>{escape(settings.user)}</user-name>
    </data-source>
  </component>
</project>"""


def grafana(settings: ClickHouseSettings) -> str:
    """A provisioning file for the data source that the dashboards in deploy/grafana/ use. Grafana reads the password
    from its environment."""
    tls = ""
    secret = f"      password: ${PASSWORD_VARIABLE}"
    if settings.secure:
        tls = f"\n      tlsAuth: {_yes(settings.client_cert)}\n      tlsAuthWithCACert: {_yes(settings.ca_cert)}"
        files = {
            "tlsCACert": settings.ca_cert,
            "tlsClientCert": settings.client_cert,
            "tlsClientKey": settings.client_key,
        }
        lines = [f"      {name}: $__file{{{path}}}" for name, path in files.items() if path]
        secret = "\n".join([*lines, *([] if settings.client_cert else [secret])])
    return f"""\
# provisioning/datasources/deribit-tape.yaml; its plugin: grafana cli plugins install grafana-clickhouse-datasource
apiVersion: 1
datasources:
  - name: {connection_name(settings)}
    uid: deribit-tape
    type: grafana-clickhouse-datasource
    jsonData:
      host: {settings.host}
      port: {settings.port}
      protocol: http
      secure: {_yes(settings.secure)}
      defaultDatabase: {MART_DATABASE}
      username: {settings.user}{tls}
    secureJsonData:
{secret}"""


def metabase(settings: ClickHouseSettings) -> str:
    """The body of `POST /api/database`, or what to enter under Admin, Databases; add the password there."""
    details = {
        "host": settings.host,
        "port": settings.port,
        "user": settings.user,
        "dbname": MART_DATABASE,
        "scan-all-databases": False,
        "ssl": settings.secure,
    }
    return _json({"engine": "clickhouse", "name": connection_name(settings), "details": details})


def duckdb(settings: ClickHouseSettings) -> str:
    """A Python program that queries results of ClickHouse in DuckDB, passed on as Arrow tables without a copy."""
    options = {
        "host": settings.host,
        "port": settings.port,
        "username": settings.user,
        "secure": settings.secure,
    }
    files = {
        "ca_cert": settings.ca_cert,
        "client_cert": settings.client_cert,
        "client_cert_key": settings.client_key,
    }
    options |= {name: path for name, path in files.items() if path}
    password = "" if settings.client_cert else f', password=os.environ["{PASSWORD_VARIABLE}"]'
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"""import os

import clickhouse_connect
import duckdb

client = clickhouse_connect.get_client({arguments}{password})
candles = client.query_arrow("select * from {MART_DATABASE}.ohlcv_1d order by instrument_name, bucket_at limit 100000")
print(duckdb.sql("select instrument_name, count(*) as days, sum(trade_count) as trades from candles group by all"))"""


PROGRAMS: Mapping[str, Callable[[ClickHouseSettings], str]] = {
    "dbeaver": dbeaver,
    "datagrip": datagrip,
    "grafana": grafana,
    "metabase": metabase,
    "duckdb": duckdb,
    "dsn": dsn,
}
"""What `tape connect` prints, by program."""


def _json(value: object) -> str:
    return json.dumps(value, indent=2)


def _yes(value: object) -> str:
    return "true" if value else "false"
