"""AWS on loopback: moto for Secrets Manager and CloudWatch, Lambda's Runtime API, a job's container as a process."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.clickhouse import drop_project_databases
from tests.support.commands import Done
from tests.support.edge import SERVER_PASSWORD, Edge
from tests.support.lambda_runtime_api import RuntimeApi

PASSWORD_CANARY = "canary-of-the-secret-password"
AWS_KEYS = {"AWS_ACCESS_KEY_ID": "AKIACANARYOFTHETESTS", "AWS_SECRET_ACCESS_KEY": "canary/of+the/aws+key"}
TIMEOUT_S = 120


@pytest.fixture
def aws_env(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a process on AWS, with moto in place of AWS."""
    env = AWS_KEYS | {
        "AWS_ENDPOINT_URL": moto_url,
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture
def put_secret(aws_env: dict[str, str]) -> Callable[[str], str]:
    """A function that stores a secret and returns its ARN."""

    def put(text: str) -> str:
        client = boto3.client("secretsmanager")
        name = f"deribit-tape/{time.monotonic_ns()}"
        return client.create_secret(Name=name, SecretString=text)["ARN"]

    return put


@pytest.fixture
def cloud(edge: Edge) -> Iterator[Client]:
    """A client of the empty server behind the edge."""
    behind = edge.clickhouse
    with clickhouse_connect.get_client(
        host=behind.host, port=behind.port, username=behind.user, password=behind.password
    ) as client:
        drop_project_databases(client)
        yield client


@pytest.fixture
def machine(
    edge: Edge, cloud: Client, aws_env: dict[str, str], put_secret: Callable[[str], str], tmp_path: Path
) -> Iterator[Machine]:
    """A machine on AWS whose secret opens the edge, with a /tmp in the test's directory."""
    opens = edge.env()
    secret = {
        name: Path(value).read_text() if os.path.isfile(value) else value for name, value in opens.items()
    }
    secret["CLICKHOUSE_CLOUD_PASSWORD"] = PASSWORD_CANARY
    env = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPYCACHEPREFIX") if name in os.environ}
    (tmp_path / "tmp").mkdir()
    env |= aws_env | {
        "HOME": str(tmp_path / "tmp"),
        "TMPDIR": str(tmp_path / "tmp"),
        "TAPE_SECRET_ID": put_secret(json.dumps(secret)),
        "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "1000",
        "PYTHONPATH": str(ROOT / "tests/aws/guard"),
        "SOURCES__DERIBIT__CURRENCIES": '["BTC"]',
    }
    key = secret["CLICKHOUSE_CLOUD_CLIENT_KEY"].splitlines()[1]
    made = Machine(env, tmp_path / "tmp", (PASSWORD_CANARY, SERVER_PASSWORD, key, *AWS_KEYS.values()))
    yield made
    made.close()
    assert not [canary for canary in made.canaries if canary in made.output]
    assert "left loopback" not in made.output


@dataclass
class Machine:
    """Runs the entry points as AWS does. `canaries` are secrets that must not appear in any output."""

    env: dict[str, str]
    tmp: Path
    canaries: tuple[str, ...]
    output: str = ""
    _running: list[subprocess.Popen[str]] = field(default_factory=list)

    def at(self, exchange: SandboxExchange, **env: str) -> Machine:
        """Point the machine at a sandbox exchange; `env` configures the source."""
        self.env |= {
            "SOURCES__DERIBIT__API_URL": exchange.url,
            "SOURCES__DERIBIT__HISTORY_URL": exchange.history_url,
        } | env
        return self

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._running.append(process)
        return process

    def ended(self, process: subprocess.Popen[str]) -> Done:
        """Wait for a process; its output is also searched for canaries."""
        out, _ = process.communicate(timeout=TIMEOUT_S)
        self.output += out
        return Done(process.returncode, out, "")

    def job(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a Batch job."""
        return self.start("-m", "extract.aws.batch_backfill", *words, **env)

    def function(self, handler: str = "extract.aws.lambda_increment.lambda_handler") -> Function:
        """Start a Lambda function, which then waits for its first event."""
        return Function(self, handler)

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
            if process.stdout and not process.stdout.closed:
                self.output += process.communicate()[0]


class Function:
    """One environment of a Lambda function; `kill` does what the service does when the time is up."""

    def __init__(self, machine: Machine, handler: str) -> None:
        self._machine = machine
        self._api = RuntimeApi()
        self._process = machine.start(
            "-m",
            "awslambdaric",
            handler,
            AWS_LAMBDA_RUNTIME_API=self._api.address,
            AWS_LAMBDA_FUNCTION_NAME="deribit-tape-increment",
        )

    def invoke(
        self, timeout_s: float = 60, kill_after_s: float | None = None, **event: Any
    ) -> dict[str, Any]:
        """The result; an error's is {"errorMessage": …}. Raises TimeoutError after killing it when out of time."""
        self.begin(timeout_s, **event)
        with suppress(queue.Empty):
            return self._api.answers.get(timeout=kill_after_s or timeout_s)[1]
        assert self._process.poll() is None, self._machine.ended(self._process).out
        self.kill()
        raise TimeoutError

    def begin(self, timeout_s: float = 60, **event: Any) -> None:
        """Send the event without waiting for the result."""
        self._api.invoke(event, timeout_s)
        assert self._api.handed_out.wait(TIMEOUT_S), "the function did not fetch the event"

    def kill(self) -> None:
        self._process.kill()
        self._machine.ended(self._process)
        self._api.close()

    def __enter__(self) -> Function:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()


class Subscriber:
    """A topic, and a queue that subscribes to it. The environment has to be that of `aws_env`."""

    def __init__(self) -> None:
        self._sqs = boto3.client("sqs")
        sns = boto3.client("sns")
        name = f"loads-{time.monotonic_ns()}"
        self.topic: str = sns.create_topic(Name=name)["TopicArn"]
        self._queue = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])
        sns.subscribe(
            TopicArn=self.topic,
            Protocol="sqs",
            Endpoint=attributes["Attributes"]["QueueArn"],
            Attributes={"RawMessageDelivery": "true"},
        )

    def receive(self) -> list[dict[str, Any]]:
        """The events since the last call, in their order."""
        received = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10)
        return [json.loads(each["Body"]) for each in received.get("Messages", ())]


@pytest.fixture(scope="session")
def tape() -> Tape:
    return Tape.generate(seed=11, trades=4_000, days=3)
