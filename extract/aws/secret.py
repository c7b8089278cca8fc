"""ClickHouse credentials from AWS Secrets Manager: certificates are written to files, passwords stay in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import boto3
import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from extract.errors import OutsideError, UsageError

SECRET_ID = "TAPE_SECRET_ID"
FILES = ("CLICKHOUSE_CLOUD_CA_CERT", "CLICKHOUSE_CLOUD_CLIENT_CERT", "CLICKHOUSE_CLOUD_CLIENT_KEY")
"""Entries that hold PEM text, where the environment variable would hold the path of a file."""
NAMES = tuple(f"CLICKHOUSE_CLOUD_{name}" for name in ("HOST", "PORT", "USER", "PASSWORD", "WAKE_S")) + FILES


def cloud_environment(directory: Path, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of mode cloud from the secret that TAPE_SECRET_ID names, JSON with these variables.

    Variables that it lacks come from `env`. PEM text is written below `directory`, readable by the owner only. The
    environment is not changed. Raises UsageError or OutsideError, never with content of the secret.
    """
    name = env.get(SECRET_ID)
    if not name:
        raise UsageError(f"{SECRET_ID} is not set; it names the secret in AWS Secrets Manager.")
    defaults = {key: env[key] for key in NAMES if key not in FILES and key in env}
    secret = _parse(name, _read(name))
    paths = {key: _write(directory, key, secret[key]) for key in FILES if secret.get(key)}
    return {"CLICKHOUSE_MODE": "cloud", **defaults, **secret, **paths}


def _read(name: str) -> str:
    try:
        answer = boto3.client("secretsmanager").get_secret_value(SecretId=name)
    except ClientError as error:
        raise OutsideError(f"The secret {name} cannot be read: {error.response['Error']['Code']}.") from None
    except BotoCoreError as error:
        raise OutsideError(f"The secret {name} cannot be read: {' '.join(str(error).split())}") from None
    return answer.get("SecretString") or ""


def _parse(name: str, text: str) -> dict[str, str]:
    try:
        secret = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError:
        raise UsageError(
            f"The secret {name} is not a JSON object of strings; see deploy/aws/README.md."
        ) from None
    if unknown := sorted(secret.keys() - set(NAMES)):
        raise UsageError(
            f"The secret {name} has an unknown entry {unknown[0]}; allowed are {', '.join(NAMES)}."
        )
    for key in FILES:
        if secret.get(key) and "-----BEGIN " not in secret[key]:
            raise UsageError(f"{key} in the secret {name} is not PEM text; store the file's content there.")
    return secret


def _write(directory: Path, key: str, text: str) -> str:
    path = directory / f"{key.lower()}.pem"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text.strip() + "\n")
    return str(path)
