#!/usr/bin/env bash
# Generate Python code from protos/ into DIR (default: service), with tools pinned in requirements/generate.txt that
# live in an environment of their own (.venv-generate).
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")/../service}")
cd "$(dirname "$0")/.."
env=.venv-generate
if ! cmp -s requirements/generate.txt "$env/installed.txt" 2>/dev/null; then
    rm -rf "$env"
    "${PYTHON:-python3}" -m venv "$env"
    "$env/bin/pip" install --quiet --require-hashes -r requirements/generate.txt
    cp requirements/generate.txt "$env/installed.txt"
fi
cd protos
files=$(find convserve -name '*.proto' | sort)
# shellcheck disable=SC2086
PATH="$PWD/../$env/bin:$PATH" "../$env/bin/python" -m grpc_tools.protoc -I . --python_out="$out" --grpc_python_out="$out" \
    --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" $files
