"""Backups in an S3 bucket, on a fake of AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator

import boto3
import pytest

from tests.backup.conftest import Backups, raw_content

PLACE = "s3://tape-backups/a/prefix"


@pytest.fixture(scope="module")
def bucket(moto_url: str) -> Iterator[object]:
    with pytest.MonkeyPatch.context() as env:
        for name, value in {
            "AWS_ENDPOINT_URL": moto_url,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            env.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="tape-backups")
        yield client
        client.close()


@pytest.mark.slow
def test_backup_in_a_bucket_is_restored(loaded_backups: Backups, bucket: object) -> None:
    done = loaded_backups.back_up(place=PLACE)
    assert done.code == 0, done.output
    again = loaded_backups.back_up("--json", "--keep", "daily=1", place=PLACE)
    assert json.loads(again.out)["files_written"] == 0
    assert len(json.loads(again.out)["pruned"]) == 1
    loaded_backups.lose_everything()
    done = loaded_backups.restore(place=PLACE)
    assert done.code == 0, done.output
    assert raw_content(loaded_backups.user.database) == loaded_backups.content
    keys = [each["Key"] for each in bucket.list_objects_v2(Bucket="tape-backups")["Contents"]]
    assert all(key.startswith("a/prefix/") for key in keys)


def test_missing_object_is_refused_by_name(loaded_backups: Backups, bucket: object) -> None:
    place = "s3://tape-backups/other"
    assert loaded_backups.back_up(place=place).code == 0
    keys = [
        each["Key"]
        for each in bucket.list_objects_v2(Bucket="tape-backups", Prefix="other/files/trades")["Contents"]
    ]
    bucket.delete_object(Bucket="tape-backups", Key=keys[0])
    done = loaded_backups.restore("--verify", place=place)
    assert done.code == 1
    assert f"s3://tape-backups/{keys[0]} is missing" in done.err


def test_bucket_that_does_not_exist_is_a_usage_error(loaded_backups: Backups, bucket: object) -> None:
    done = loaded_backups.back_up(place="s3://no-such-bucket/x")
    assert done.code == 3
    assert "There is no bucket no-such-bucket" in done.err
