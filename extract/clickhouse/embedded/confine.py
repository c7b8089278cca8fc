"""Restrict the server's process to its own files with Landlock: no other files, no programs, no outgoing TCP.

Grants are not enough: the engine runs as clickhouse-local, which trusts its user, so `INSERT … FROM INFILE`
reads any file without a privilege. Landlock needs Linux 5.19 for files and 6.7 for the network:
https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

# System call numbers, the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _RULE_PATH_BENEATH, _SET_NO_NEW_PRIVILEGES = 1, 1, 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ALL_OF_ABI = {
    2: (1 << 14) - 1,
    3: (1 << 15) - 1,
    5: (1 << 16) - 1,
}  # rights to files known since that version
_CONNECT_TCP = 1 << 1


def abi_version() -> int:
    """Return the kernel's Landlock version, 0 if there is none or it is too old (2 is the first to allow renames)."""
    if sys.platform != "linux":
        return 0
    version = _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return version if version >= 2 else 0


def confine(
    *, writable: Iterable[Path], readable: Iterable[Path], writable_unreadable: Iterable[Path] = ()
) -> bool:
    """Restrict this process to these directory trees; it can start no program and open no TCP connection.

    Threads and children started later inherit this, so call it first. Returns False if the kernel cannot do it.
    """
    abi = abi_version()
    if not abi:
        return False
    rights = _ALL_OF_ABI[max(known for known in _ALL_OF_ABI if known <= abi)]
    ruleset = struct.pack("=QQ", rights, _CONNECT_TCP) if abi >= 4 else struct.pack("=Q", rights)
    ruleset_fd = _call(_CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), ctypes.c_uint32(0))
    for path in writable:
        _allow(ruleset_fd, path, rights & ~_EXECUTE)
    for path in writable_unreadable:
        _allow(ruleset_fd, path, rights & ~_EXECUTE & ~_READ_FILE)
    for path in readable:
        _allow(ruleset_fd, path, _READ_FILE | _READ_DIR)
    if _system().prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    _call(_RESTRICT_SELF, ruleset_fd, ctypes.c_uint32(0))
    os.close(ruleset_fd)
    return True


def _allow(ruleset_fd: int, path: Path, rights: int) -> None:
    """Grant `rights` to `path` and everything below it; skip a path that does not exist."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not path.is_dir():
        rights &= _READ_FILE | _WRITE_FILE
    _call(_ADD_RULE, ruleset_fd, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), ctypes.c_uint32(0))
    os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = _syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result


def _syscall(number: int, *arguments: object) -> int:
    return int(_system().syscall(number, *arguments))


def _system() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
