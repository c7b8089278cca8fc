"""Places of an export: a folder or a prefix of an S3 bucket. A file appears there complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from extract.aws_errors import aws_errors
from extract.errors import UsageError
from extract.export.manifest import UNFINISHED

S3 = "s3://"


class Store(Protocol):
    """Files by path, relative and with slashes. `str()` of it is the address that the user gave."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by path."""

    def read(self, path: str) -> bytes:
        """Content of a small file. Raises FileNotFoundError."""

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a small file."""

    def delete(self, path: str) -> None:
        """Delete a file, if it exists."""

    def local_file(self, path: str) -> AbstractContextManager[Path]:
        """A local file with the content of one, for reading. Raises FileNotFoundError."""

    def scratch_file(self) -> Path:
        """Where to write a file before `publish`; each call names the same path."""

    def publish(self, path: str) -> None:
        """Move the scratch file to its place, replacing what is there."""


@contextmanager
def open_store(address: str, *, is_new: bool) -> Iterator[Store]:
    """The place at a path or `s3://bucket/prefix`; `is_new`: it is written, and created where it does not exist.

    A folder that is written is locked. Raises UsageError if it does not exist, or another export writes to it.
    """
    with ExitStack() as stack:
        if address.startswith(S3):
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tape-export-")))
            yield S3Store(address, scratch)
            return
        root = Path(address)
        if is_new:
            root.mkdir(parents=True, exist_ok=True)
        if not root.is_dir():
            raise UsageError(f"There is no folder {address}.")
        if is_new:
            stack.enter_context(_locked(root))
        yield FolderStore(root)
        with suppress(OSError):  # it has files
            (root / UNFINISHED).rmdir()


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"Another process is writing into {root}; wait for it or stop it.") from None
    finally:
        os.close(descriptor)


class FolderStore:
    """A folder. Files are written below `_unfinished/` and renamed when they are on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def sizes(self) -> dict[str, int]:
        return {
            path.relative_to(self.root).as_posix(): path.lstat().st_size
            for path in sorted(self.root.rglob("*"))
            if not path.is_dir() or path.is_symlink()
        }

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        scratch = self.scratch_file().with_name("small.tmp")
        scratch.write_bytes(content)
        self._move(scratch, path)

    def delete(self, path: str) -> None:
        target = self.root / path
        target.unlink(missing_ok=True)
        with suppress(OSError):  # a folder has other files
            for folder in target.relative_to(self.root).parents[:-1]:
                (self.root / folder).rmdir()

    @contextmanager
    def local_file(self, path: str) -> Iterator[Path]:
        yield self.root / path

    def scratch_file(self) -> Path:
        scratch = self.root / f"{UNFINISHED}file.tmp"
        scratch.parent.mkdir(exist_ok=True)
        return scratch

    def publish(self, path: str) -> None:
        self._move(self.scratch_file(), path)

    def _move(self, scratch: Path, path: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _flush(scratch)
        os.replace(scratch, target)
        _flush(target.parent)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class S3Store:
    """Objects below a prefix of a bucket. Files are written locally and then uploaded, in parts where they are large.

    Credentials, region and endpoint come from the environment, as boto3 reads it.
    """

    def __init__(self, address: str, scratch: Path) -> None:
        import boto3

        self.address = address.rstrip("/")
        self.bucket, _, prefix = self.address.removeprefix(S3).partition("/")
        if not self.bucket:
            raise UsageError(f"{address} names no bucket; write it like s3://bucket/prefix.")
        self.prefix = f"{prefix}/" if prefix else ""
        self.scratch = scratch
        with aws_errors():
            self.client = boto3.client("s3")

    def __str__(self) -> str:
        return self.address

    def sizes(self) -> dict[str, int]:
        with self._errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix
            )
            return {
                each["Key"].removeprefix(self.prefix): each["Size"]
                for page in pages
                for each in page.get("Contents", [])
            }

    def read(self, path: str) -> bytes:
        with self._errors(path):
            content: bytes = self.client.get_object(Bucket=self.bucket, Key=self._key(path))["Body"].read()
            return content

    def write(self, path: str, content: bytes) -> None:
        with self._errors():
            self.client.put_object(Bucket=self.bucket, Key=self._key(path), Body=content)

    def delete(self, path: str) -> None:
        with self._errors():
            self.client.delete_object(Bucket=self.bucket, Key=self._key(path))

    @contextmanager
    def local_file(self, path: str) -> Iterator[Path]:
        copy = self.scratch / "copy"
        with self._errors(path), copy.open("wb") as file:
            shutil.copyfileobj(
                self.client.get_object(Bucket=self.bucket, Key=self._key(path))["Body"], file, 1 << 20
            )
        yield copy
        copy.unlink(missing_ok=True)

    def scratch_file(self) -> Path:
        return self.scratch / "file.tmp"

    def publish(self, path: str) -> None:
        with self._errors(), self.scratch_file().open("rb") as file:
            self.client.upload_fileobj(file, self.bucket, self._key(path))

    def _key(self, path: str) -> str:
        return self.prefix + path

    @contextmanager
    def _errors(self, path: str = "") -> Iterator[None]:
        missing = self.client.exceptions
        with aws_errors():
            try:
                yield
            except missing.NoSuchBucket:
                raise UsageError(f"There is no bucket {self.bucket}; create it, or correct {self}.") from None
            except missing.NoSuchKey:
                raise FileNotFoundError(f"{self}/{path}") from None
