"""Take from the server's process what no database needs: other people's files, other programs, the network.

Grants alone do not: the engine takes itself for clickhouse-local, which belongs to whoever runs it, so for
example `INSERT … FROM INFILE` reads any file and no privilege forbids it. Linux can, by Landlock (5.19 for
files, 6.7 for the network): https://docs.kernel.org/userspace-api/landlock.html
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
    """Version of the kernel's Landlock, 0 where none serves (2 is the first to allow renames)."""
    if sys.platform != "linux":
        return 0
    version = _system().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return version if version >= 2 else 0


def confine(*, writable: Iterable[Path], readable: Iterable[Path]) -> bool:
    """From here on this process reaches only these trees, starts no program and opens no TCP connection.

    Later threads and children neither; call it before the first thread starts. False where the kernel cannot.
    """
    abi = abi_version()
    if not abi:
        return False
    rights = _ALL_OF_ABI[max(known for known in _ALL_OF_ABI if known <= abi)]
    ruleset = struct.pack("=QQ", rights, _CONNECT_TCP) if abi >= 4 else struct.pack("=Q", rights)
    ruleset_fd = _call(_CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), ctypes.c_uint32(0))
    for path in writable:
        _allow(ruleset_fd, path, rights & ~_EXECUTE)
    for path in readable:
        _allow(ruleset_fd, path, _READ_FILE | _READ_DIR)
    if _system().prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    _call(_RESTRICT_SELF, ruleset_fd, ctypes.c_uint32(0))
    os.close(ruleset_fd)
    return True


def _allow(ruleset_fd: int, path: Path, rights: int) -> None:
    """Rights to `path` and all below it; nothing if it is not there."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not path.is_dir():
        rights &= _READ_FILE | _WRITE_FILE
    _call(_ADD_RULE, ruleset_fd, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), ctypes.c_uint32(0))
    os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = _system().syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result


def _system() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
