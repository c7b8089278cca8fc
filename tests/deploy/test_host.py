"""`deploy/host` and `docs/host.md`: the units are valid and confined, their commands exist, and the page's commands work."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import httpx
import pytest

from extract.cli.main import tape
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.embedded.server import embedded_server
from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.waiting import wait_until

HOST = ROOT / "deploy" / "host"
PAGE = (ROOT / "docs" / "host.md").read_text()
KEYS = ROOT / "deploy/edge/deribit-tape-serve.service.d/keys.conf"
SERVICES = sorted(HOST.glob("*.service"))
INSTALLED = "/opt/deribit-tape/.venv/bin/tape"
NOBODY = 65534
STOP_S = 35
AS_NOBODY = f"""
mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w &&
mount -t overlay o -o lowerdir=/root,upperdir=/mnt/u,workdir=/mnt/w /root && chmod 0755 /root &&
exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$0" "$@"
"""
"""Run a command as nobody, who may enter root's home, where the interpreter may be, for this command only."""

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze of the package systemd"
)
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs root and mount namespaces",
)


def exec_lines(service: Path, *names: str) -> list[list[str]]:
    """Words of the ExecStart line, or of the lines `names`, as systemd splits them."""
    lines = re.findall(rf"^(?:{'|'.join(names or ['ExecStart'])})=(.*)$", service.read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines if line]


@needs_systemd
def test_units_verify_clean(tmp_path: Path) -> None:
    """With the path of this checkout's commands; systemd reports unknown directives and system calls."""
    shutil.copytree(HOST, tmp_path, dirs_exist_ok=True)
    for service in tmp_path.glob("*.service"):
        service.write_text(service.read_text().replace("/opt/deribit-tape", str(ROOT)))
    units = [str(each) for each in tmp_path.iterdir() if each.suffix in (".service", ".timer", ".target")]
    assert len(units) == 10
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = subprocess.run(["systemd-analyze", "verify", *units], env=env, capture_output=True, text=True)
    messages = [line for line in done.stderr.splitlines() if "deribit-tape" in line]
    assert (done.returncode, messages) == (0, [])


@needs_systemd
@pytest.mark.parametrize("service", SERVICES, ids=lambda each: each.stem)
def test_exposure_is_below_3(service: Path) -> None:
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{HOST}:"}
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(service)],
        env=env,
        capture_output=True,
        text=True,
    )
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) < 3


@pytest.mark.parametrize("service", [*SERVICES, KEYS], ids=lambda each: each.stem)
def test_commands_of_units_exist_with_their_options(service: Path) -> None:
    """Each line parses as the command line of a `tape` command; variables are in env.example."""
    lines = exec_lines(service, "ExecStart", "ExecStop")
    example = dict(re.findall(r"^#?(\w+)=(.*)$", (HOST / "env.example").read_text(), re.MULTILINE))
    assert lines
    for path, name, *arguments in lines:
        assert path == INSTALLED
        command = tape.get_command(click.Context(tape), name)
        assert command, f"tape has no command {name}"
        values = [
            re.sub(r"\$\{(\w+)\}", lambda variable: example[variable[1]], argument) for argument in arguments
        ]
        command.make_context(name, values)


def test_target_and_page_name_every_unit() -> None:
    """The target starts the timer of each oneshot service, and all other services."""
    wanted = set(re.findall(r"deribit-tape-\S+", (HOST / "deribit-tape.target").read_text()))
    timers = {each.name for each in HOST.glob("*.timer")}
    timed = {name.replace(".timer", ".service") for name in timers}
    assert wanted == timers | {each.name for each in SERVICES} - timed
    assert {name for name in wanted if f"`{name}`" not in PAGE} == set()


def test_page_has_ten_commands() -> None:
    assert len(commands()) == 10


def commands() -> list[str]:
    """The commands of the first block of docs/host.md."""
    block = re.search(r"\n\n((?:    .*\n)+)", PAGE)
    assert block
    return [line.strip() for line in block[1].splitlines()]


@needs_root
@needs_systemd
def test_commands_of_the_page_install_everything(tmp_path: Path) -> None:
    """All of them in a namespace whose /etc, /opt and /var/lib are copies; then every unit is installed and valid.

    The network and the service manager are replaced: apt-get, git, make, systemctl and runuser are recorded, and the
    checkout is that of the test.
    """
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, does in {
        "apt-get": "",
        "git": f'mkdir -p /opt/deribit-tape && cp -r {ROOT}/deploy "${{@: -1}}"/',
        "make": f"ln -s {ROOT}/.venv /opt/deribit-tape/.venv",
        "systemctl": "",
        "runuser": "",
    }.items():
        (stubs / name).write_text(f'#!/bin/bash\nset -e\necho "{name} $*" >> {tmp_path}/recorded\n{does}\n')
        (stubs / name).chmod(0o755)
    layers = "\n".join(
        f"mkdir -p $T/u{n} $T/w{n}; mount -t overlay o -o lowerdir={path},upperdir=$T/u{n},workdir=$T/w{n} {path}"
        for n, path in enumerate(("/etc", "/opt", "/var"))
    )
    script = f"""
set -e
export T={tmp_path}/layers
mkdir $T; mount -t tmpfs t $T
{layers}
export PATH={stubs}:$PATH REPOSITORY=https://git.example.com/deribit-tape
{chr(10).join(commands())}
stat -c '%A %U %G %n' /etc/deribit-tape /etc/deribit-tape/* /var/lib/deribit-tape /var/backups/deribit-tape
cd /etc/systemd/system
systemd-analyze verify $(ls -d deribit-tape*.{{service,timer,target}}) 2>&1 | grep deribit-tape || echo clean
wc -c < /etc/deribit-tape/backup.key
"""
    done = subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "drwxr-x--- root deribit-tape /etc/deribit-tape",
        "-rw------- deribit-tape root /etc/deribit-tape/backup.key",
        "-rw-r----- root deribit-tape /etc/deribit-tape/env",
        "drwx------ deribit-tape deribit-tape /var/lib/deribit-tape",
        "drwx------ deribit-tape deribit-tape /var/backups/deribit-tape",
        "clean",
        "65",
    ]
    recorded = (tmp_path / "recorded").read_text().splitlines()
    assert recorded[-1] == "systemctl enable --now deribit-tape.target"
    assert len(recorded) == 7
    assert not Path("/etc/deribit-tape").exists()


def handles_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    [caught] = re.findall(r"^SigCgt:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def pid_file(tape_dir: Path) -> Path:
    """The file from which systemd reads the process that it starts again, with TAPE_DIR in `tape_dir`."""
    unit = (HOST / "deribit-tape-clickhouse.service").read_text()
    [path] = re.findall(r"^PIDFile=/var/lib/deribit-tape/(.*)$", unit, re.MULTILINE)
    return tape_dir / path


def is_running(file: Path) -> bool:
    """Whether the first line of a PID file names the supervisor of an embedded server."""
    command = Path("/proc", file.read_text().splitlines()[0], "cmdline")
    return b"extract.clickhouse.embedded.process" in command.read_bytes()


@pytest.mark.slow
@pytest.mark.clickhouse
def test_ninth_command_builds_the_models(tmp_path: Path) -> None:
    """In a shell without dbt's variables; paths of the host are those of the test, its settings those of a server."""
    [command] = [line for line in commands() if line.startswith("runuser ")]
    script = shlex.split(command)[-1]
    with embedded_server(tmp_path / "server") as settings:
        (tmp_path / "env").write_text(
            f"CLICKHOUSE_MODE=local\nCLICKHOUSE_LOCAL_HOST={settings.host}\nCLICKHOUSE_LOCAL_PORT={settings.port}\n"
            f"CLICKHOUSE_LOCAL_PASSWORD={settings.password}\n"
        )
        for path, here in (
            ("/etc/deribit-tape/env", tmp_path / "env"),
            ("/var/lib/deribit-tape", tmp_path / "lib"),
            ("/opt/deribit-tape", ROOT),
        ):
            assert path in script
            script = script.replace(path, str(here))
        env = {"PATH": os.environ["PATH"]}
        done = subprocess.run(["sh", "-c", script], env=env, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"PASS=\d+ .*ERROR=0", done.stdout)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of the unprivileged user."""
    path = Path(tempfile.mkdtemp(prefix="deribit-tape-host-"))
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.clickhouse
@needs_root
def test_services_start_restart_and_stop_as_an_unprivileged_user(
    directory: Path, start_exchange: Callable[..., SandboxExchange]
) -> None:
    """Every service by the line of its unit: after a kill those that last resume, and SIGTERM ends them in time."""
    exchange = start_exchange(Tape.generate(seed=5, trades=300, days=1))
    key = directory / "backup.key"
    key.write_text(secrets.token_hex(32))
    os.chown(key, NOBODY, NOBODY)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "TAPE_DIR": str(directory / "tape"),
        "PYTHONUNBUFFERED": "1",
        "CLICKHOUSE_MODE": "local",
        "CLICKHOUSE_LOCAL_PORT": str(free_port()),
        "CLICKHOUSE_LOCAL_TCP_PORT": "0",
        "SOURCES__DERIBIT__API_URL": exchange.url,
        "SOURCES__DERIBIT__HISTORY_URL": exchange.history_url,
        "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "1000",
        "SOURCES__DERIBIT__SERIES": "none",
        "BACKUP_TO": str(directory / "backups"),
        "BACKUP_KEY_FILE": str(key),
    }

    def words(name: str, line: str = "ExecStart") -> list[str]:
        (arguments,) = exec_lines(HOST / f"deribit-tape-{name}.service", line)
        command = [
            re.sub(r"\$\{(\w+)\}", lambda name: env[name[1]], argument).replace(
                "/opt/deribit-tape", str(ROOT)
            )
            for argument in arguments
        ]
        return ["unshare", "-m", "sh", "-c", AS_NOBODY, *command]

    def run(name: str, line: str = "ExecStart") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words(name, line), env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
        )

    def started(name: str, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*words(name), *options],
            env=env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def first_line_then_kill(process: subprocess.Popen[str]) -> str:
        assert process.stdout
        line = process.stdout.readline()
        process.kill()
        return line + process.communicate()[0]

    def terminate(process: subprocess.Popen[str]) -> str:
        assert process.poll() is None
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=STOP_S)
        assert (process.returncode, time.monotonic() - began_s < STOP_S) == (0, True), out
        return out

    up = run("clickhouse")
    assert up.returncode == 0, up.stderr
    try:
        assert is_running(pid_file(directory / "tape"))
        assert "new trades" in first_line_then_kill(started("follow"))
        follow = started("follow")
        wait_until(lambda: handles_sigterm(follow.pid) or follow.poll() is not None)
        assert "Stopped on SIGTERM." in terminate(follow)
        assert first_line_then_kill(started("serve", "--port", "0")).startswith("ready http://127.0.0.1:")
        serve = started("serve", "--port", "0")
        assert serve.stdout
        address = serve.stdout.readline().removeprefix("ready ").strip()
        assert httpx.get(f"{address}/health", trust_env=False, timeout=60).is_success
        assert terminate(serve) == ""
        backup = run("backup")
        assert backup.returncode == 0, backup.stderr
        verify = run("verify")
        assert (verify.returncode, "run: dbt build" in verify.stderr) == (2, True), verify.stderr
        health = run("health")
        assert health.returncode in (1, 2)  # there are no models
        assert re.search(r"^ok +runs ", health.stdout, re.MULTILINE), health.stdout + health.stderr
        assert re.search(r"^ok +backup ", health.stdout, re.MULTILINE)
        assert (directory / "tape").stat().st_uid == NOBODY
    finally:
        assert run("clickhouse", "ExecStop").returncode == 0
