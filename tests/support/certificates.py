"""Test certificates from the `openssl` command: an authority, a server, a client."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")


@dataclass(frozen=True)
class Certificate:
    cert: Path
    key: Path


class Authority:
    """A new certificate authority with its files in `directory`."""

    def __init__(self, directory: Path, subject: str = "/CN=test CA") -> None:
        directory.mkdir()
        self.directory = directory
        self.subject = subject

    @cached_property
    def ca(self) -> Certificate:
        files = self._files("ca")
        self._openssl(
            "req",
            "-x509",
            *_NEW_KEY,
            "-keyout",
            files.key,
            "-out",
            files.cert,
            "-subj",
            self.subject,
            "-days",
            "2",
        )
        return files

    def signed(
        self, name: str, *, host: str = "127.0.0.1", days: int = 2, subject: str | None = None
    ) -> Certificate:
        """A new certificate for `host` and `subject`, by default `name`; with `days` < 0 it has expired."""
        files, request, extensions = (
            self._files(name),
            self.directory / f"{name}.csr",
            self.directory / f"{name}.ext",
        )
        kind = "IP" if host[0].isdigit() else "DNS"
        extensions.write_text(f"subjectAltName={kind}:{host}\nbasicConstraints=CA:FALSE\n")
        self._openssl(
            "req", *_NEW_KEY, "-keyout", files.key, "-out", request, "-subj", f"/CN={subject or name}"
        )
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.ca.cert, "-CAkey", self.ca.key, "-CAcreateserial",
            "-out", files.cert, "-days", str(days), "-extfile", extensions,
        )  # fmt: skip
        return files

    def _files(self, name: str) -> Certificate:
        return Certificate(self.directory / f"{name}.pem", self.directory / f"{name}.key")

    @staticmethod
    def _openssl(*arguments: object) -> None:
        done = subprocess.run(
            ["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
