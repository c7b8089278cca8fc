"""Content of the secret in Secrets Manager, and errors that never show it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extract.aws.secret import cloud_environment
from extract.clickhouse.settings import clickhouse_settings
from extract.errors import TapeError, UsageError

CANARY = "canary-of-a-secret"
PEM = f"-----BEGIN CERTIFICATE-----\n{CANARY}\n-----END CERTIFICATE-----"
Put = Callable[[str], str]


def test_passwords_stay_in_memory_and_pem_text_becomes_files(put_secret: Put, tmp_path: Path) -> None:
    """A ClickHouse Cloud service with a password and a private CA; nothing goes into the environment."""
    secret = {
        "CLICKHOUSE_CLOUD_HOST": "db.example",
        "CLICKHOUSE_CLOUD_PASSWORD": CANARY,
        "CLICKHOUSE_CLOUD_CA_CERT": PEM,
    }
    env = {"TAPE_SECRET_ID": put_secret(json.dumps(secret)), "CLICKHOUSE_CLOUD_PORT": "9443"}
    settings = clickhouse_settings(env=cloud_environment(tmp_path, env))
    assert (settings.mode, settings.host, settings.port) == ("cloud", "db.example", 9443)
    assert settings.password == CANARY
    assert settings.ca_cert == str(tmp_path / "clickhouse_cloud_ca_cert.pem")
    assert Path(settings.ca_cert).read_text() == PEM + "\n"
    assert os.stat(settings.ca_cert).st_mode & 0o777 == 0o600
    assert CANARY not in str(os.environ) + repr(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CANARY, "is not a JSON object of strings"),
        (json.dumps({"CLICKHOUSE_CLOUD_PASSWORD": [CANARY]}), "is not a JSON object of strings"),
        (
            json.dumps({"PASSWORD": CANARY}),
            "has an unknown entry PASSWORD; allowed are CLICKHOUSE_CLOUD_HOST",
        ),
        (json.dumps({"CLICKHOUSE_CLOUD_CLIENT_KEY": CANARY}), "CLIENT_KEY in the secret .* is not PEM text"),
        (json.dumps({"CLICKHOUSE_CLOUD_PASSWORD": CANARY}), "CLICKHOUSE_CLOUD_HOST is not set"),
    ],
)
def test_invalid_secret_is_one_sentence_without_its_content(
    put_secret: Put, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        clickhouse_settings(env=cloud_environment(tmp_path, {"TAPE_SECRET_ID": put_secret(text)}))
    assert CANARY not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_secret_is_one_sentence(put_secret: Put, tmp_path: Path) -> None:
    """It names the variable, or the error code of Secrets Manager."""
    with pytest.raises(TapeError, match="TAPE_SECRET_ID is not set"):
        cloud_environment(tmp_path, {})
    with pytest.raises(TapeError, match="none cannot be read: ResourceNotFoundException"):
        cloud_environment(tmp_path, {"TAPE_SECRET_ID": "none"})
