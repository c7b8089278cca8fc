"""Access control of the embedded server: statements, files and addresses that it denies, tried on a running one."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from extract.clickhouse.embedded import server
from extract.clickhouse.embedded.confine import abi_version
from tests.support.embedded_server import ask

CONFINED = pytest.mark.skipif(not abi_version(), reason="the kernel has no Landlock")


@pytest.mark.parametrize(
    "credentials", [{"user": "default", "password": ""}, {"user": ""}, {"user": "default"}]
)
@pytest.mark.parametrize(
    "sql", ["SELECT 1", "SHOW DATABASES", "CREATE DATABASE x", "SYSTEM STOP LISTEN HTTP"]
)
def test_login_as_default_is_rejected(query, credentials, sql):
    """The user `default`, which has no password, cannot even select a constant or stop the listeners."""
    assert re.search("USER_SESSION_LIMIT_EXCEEDED|AUTHENTICATION_FAILED", query(sql, **credentials))
    assert query("SELECT 1") == "1"


def test_wrong_password_is_rejected(query):
    assert "AUTHENTICATION_FAILED" in query("SELECT 1", password="wrong")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM file('/etc/passwd', LineAsString)",
        "INSERT INTO FUNCTION file('x.csv', CSV, 'a String') VALUES ('a')",
        "SELECT * FROM url('http://127.0.0.1:1/', LineAsString)",
        "SELECT * FROM remote('127.0.0.1:1', system.one)",
        "SELECT * FROM remoteSecure('127.0.0.1:1', system.one)",
        "SELECT * FROM s3('http://127.0.0.1:1/bucket/x', LineAsString)",
        "SELECT * FROM azureBlobStorage('x', 'y', 'z')",
        "SELECT * FROM iceberg('http://127.0.0.1:1/bucket/x')",
        "SELECT * FROM hdfs('hdfs://127.0.0.1:1/x', 'CSV', 'a String')",
        "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        "SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'a String')",
        "SELECT * FROM sqlite('x.db', 'y')",
        "SELECT * FROM executable('id', TSV, 'x String')",
        "CREATE TABLE door.t (a String) ENGINE = File(CSV)",
        "CREATE TABLE door.t (a String) ENGINE = URL('http://127.0.0.1:1/', CSV)",
        "CREATE TABLE door.t (a String) ENGINE = S3('http://127.0.0.1:1/bucket/x', CSV)",
        "CREATE TABLE door.t (a String) ENGINE = Executable('id', 'TSV')",
        "CREATE TABLE door.t (a String) ENGINE = ExecutablePool('id', 'TSV')",
        "CREATE TABLE door.t (a String) ENGINE = Distributed('default', 'd', 't')",
        "CREATE DATABASE door2 ENGINE = Filesystem('/etc')",
        "CREATE DICTIONARY door.d (a UInt64, b String) PRIMARY KEY a "
        "SOURCE(EXECUTABLE(COMMAND 'id' FORMAT 'TSV')) LAYOUT(FLAT()) LIFETIME(9)",
        "CREATE FUNCTION f AS x -> x",
        "CREATE USER u",
        "CREATE ROLE r",
        "GRANT SELECT ON *.* TO default",
        "CREATE NAMED COLLECTION c AS a = 1",
        "BACKUP DATABASE door TO File('/tmp/door')",
        "RESTORE DATABASE door FROM File('/tmp/door')",
        "SYSTEM SHUTDOWN",
        "SYSTEM KILL",
        "SYSTEM STOP LISTEN HTTP",
        "SYSTEM RELOAD USERS",
    ],
)
def test_privilege_is_denied(query, sql):
    """The user has no privilege for files, hosts, programs, users and listeners."""
    query("CREATE DATABASE IF NOT EXISTS door")
    assert "ACCESS_DENIED)" in query(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE door.w (a Int8) ENGINE = MergeTree ORDER BY a "
        "SETTINGS disk = disk(type = web, endpoint = 'http://127.0.0.1:1/')",
        "SELECT 1 SETTINGS add_http_cors_header = 1",
    ],
)
def test_dangerous_setting_is_denied(query, sql):
    """Neither a disk on another host nor a response header that lets web pages read the result."""
    query("CREATE DATABASE IF NOT EXISTS door")
    assert "SETTING_CONSTRAINT_VIOLATION" in query(sql)


@CONFINED
def test_infile_reads_no_file_and_no_process_of_the_user(query, tmp_path):
    """INFILE needs no privilege in this engine; the kernel denies files outside of the server's directory."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    query("CREATE DATABASE IF NOT EXISTS door")
    query("CREATE TABLE IF NOT EXISTS door.lines (line String) ENGINE = Memory")
    env = {**os.environ, "DOOR_SECRET": "hunter2"}
    with subprocess.Popen(["sleep", "30"], env=env) as other:
        try:
            for path in ("/etc/passwd", secret, f"/proc/{other.pid}/environ"):
                query(f"INSERT INTO door.lines FROM INFILE '{path}' FORMAT LineAsString")
        finally:
            other.kill()
    assert query("SELECT count() FROM door.lines WHERE line LIKE '%hunter2%' OR line LIKE '%root:%'") == "0"
    assert "Permission denied" in query(f"INSERT INTO door.lines FROM INFILE '{secret}' FORMAT LineAsString")


@CONFINED
def test_confined_process_is_restricted_to_the_named_directories(tmp_path):
    """`confine` in a separate process: no other file, program or connection."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = f"""
import os, socket, subprocess, sys
from pathlib import Path
from extract.clickhouse.embedded.confine import confine
readable = [Path(sys.prefix), Path(sys.base_prefix), Path("/usr")]
assert confine(writable=[Path({str(inside)!r})], readable=readable)
def tried(action):
    try:
        action()
        return "done"
    except PermissionError:
        return "refused"
Path({str(inside)!r}, "sub").mkdir()
print([
    tried(lambda: Path({str(inside)!r}, "a").write_text("x")),
    tried(lambda: Path({str(inside)!r}, "a").rename(Path({str(inside)!r}, "sub", "b"))),
    tried(lambda: Path({str(outside)!r}).read_text()),
    tried(lambda: Path({str(outside)!r}).write_text("x")),
    tried(lambda: subprocess.run(["/bin/sh", "-c", "true"])),
    tried(lambda: socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}))),
])
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True
        )
    network = "refused" if abi_version() >= 4 else "done"
    assert ast.literal_eval(done.stdout) == ["done", "done", "refused", "refused", "refused", network]
    assert outside.read_text() == "secret"


def test_user_can_kill_only_own_queries(query):
    """KILL QUERY of everything does not end the server's own session, on which the listeners depend."""
    assert "tape" in query("KILL QUERY WHERE 1")
    assert query("SELECT 1") == "1"


def test_listens_on_loopback_only(clickhouse):
    """Another address of this machine, which a server for the whole network would have, does not answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect(("192.0.2.1", 9))  # sends nothing: the kernel only chooses the source address
        except OSError:
            pytest.skip("this machine has no other address")
        address = route.getsockname()[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, clickhouse.port), timeout=5)


def test_password_is_not_stored_in_plain_text(own_dir, settings, monkeypatch):
    """Neither in a file that the server reads or writes nor in the arguments or environment of its process."""
    settings = replace(settings, password="correct-horse-battery")
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PASSWORD", settings.password)
    server.up(settings, own_dir)
    ask(settings, "SELECT 1")
    ask(settings, "SYSTEM FLUSH LOGS")
    pid = (own_dir / "clickhouse" / "server.lock").read_text().split()[0]
    places = [path for path in own_dir.rglob("*") if path.is_file()]
    places += [path for path in (Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ")) if path.exists()]
    assert len(places) > 5
    assert [str(path) for path in places if b"correct-horse" in path.read_bytes()] == []
    assert list((own_dir / "clickhouse" / "run").rglob("*.xml")) == [], "hashes stay on the disk"
    assert (own_dir / "clickhouse").stat().st_mode & 0o777 == 0o700
