#!/usr/bin/env bash
# Makes .venv from requirements.lock, each file checked against its hash. `make install` calls it behind a stamp file.
set -euo pipefail
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}

fail() { echo "install: $1" >&2; exit 1; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  fail "$PYTHON is missing or older than 3.11; name another one: make PYTHON=python3.12 ..."
echo "install: making .venv from requirements.lock" >&2
rm -rf .venv
"$PYTHON" -m venv .venv >/dev/null 2>&1 ||
  fail "$PYTHON has no venv module; on Debian: apt-get install python3-venv"

# uv takes a quarter of pip's time; where it cannot reach its index (a mirror that only pip knows), pip does the rest.
uv_lock=$(mktemp)
trap 'rm -f "$uv_lock"' EXIT
awk '/^[^ #]/{keep = /^uv==/} keep' requirements.lock >"$uv_lock"
quiet=(--quiet --disable-pip-version-check --no-deps --require-hashes)
.venv/bin/python -m pip install "${quiet[@]}" -r "$uv_lock" || fail "pip could not install; its message is above"
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --no-deps --require-hashes --compile-bytecode -r requirements.lock ||
  .venv/bin/python -m pip install "${quiet[@]}" -r requirements.lock || fail "pip could not install; its message is above"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch .venv/.installed
