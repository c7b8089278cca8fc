"""Rotations and revocations of `tape certs` that are interrupted can be completed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from extract.certs.store import CertificateStore
from tests.support.certificates import needs_openssl
from tests.support.certs_command import NAMES, init, openssl, run

pytestmark = [needs_openssl, pytest.mark.usefixtures("certs_home")]


@contextmanager
def interrupted_after(files: int) -> Iterator[None]:
    """Interrupt after so many files were replaced, before the next one is."""
    replace, left = Path.replace, [files]

    def replace_or_interrupt(path: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_interrupt)
        yield


@pytest.mark.parametrize("files", range(12))
def test_interrupted_rotation_can_be_completed(certs_home: Path, files: int) -> None:
    """Interrupted before any file, the commands that the sentences name lead to valid certificates."""
    init()
    with interrupted_after(files), suppress(KeyboardInterrupt):
        CertificateStore("production").rotate()
    done = run("revoke")
    if "is not the key of" in done.stderr:
        assert "tape certs init -e production --host NAME" in done.stderr
        (certs_home / "ca.key").unlink()
        init()
    while "has only one authority" in done.stderr:
        assert run("rotate").exit_code == 0
        done = run("revoke")
    while issue := re.search(r"first: tape certs (issue \w+)", done.stderr):
        assert run(*issue[1].split()).exit_code == 0
        done = run("revoke")
    for name in NAMES:
        assert openssl("verify", "-CAfile", certs_home / "ca.pem", certs_home / f"{name}.pem").endswith(
            ": OK\n"
        )


@pytest.mark.parametrize("files", range(4))
def test_interrupted_revocation_can_be_repeated(certs_home: Path, files: int) -> None:
    """In the end one authority is trusted, and it signed the certificate of the server."""
    init()
    run("rotate")
    with interrupted_after(files), suppress(KeyboardInterrupt):
        CertificateStore("production").revoke()
    run("revoke")
    assert (certs_home / "ca-before.pem").read_bytes() == (certs_home / "ca.pem").read_bytes()
    assert openssl("verify", "-CAfile", certs_home / "ca.pem", certs_home / "server.pem").endswith(": OK\n")
