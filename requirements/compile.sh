#!/usr/bin/env bash
# Compile the pins. Every file holds hashes and no index address; `uv` must be on the PATH.
# dev first: the others follow its versions, so that what is tested is what is shipped.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --no-emit-index-url --no-header "$@"
}
compile pyproject.toml --extra server --extra otel --extra tensorflow --extra train --extra loadtest --group dev -o requirements/dev.txt
compile pyproject.toml --extra server -c requirements/dev.txt -o requirements/server.txt
compile pyproject.toml --extra server --extra otel -c requirements/dev.txt -o requirements/otel.txt
compile pyproject.toml --extra server --extra otel --extra tensorflow -c requirements/dev.txt -o requirements/tensorflow.txt
compile pyproject.toml --extra loadtest -c requirements/dev.txt -o requirements/loadtest.txt
compile pyproject.toml --extra train -c requirements/dev.txt -o requirements/train.txt
compile pyproject.toml --extra gpu --extra otel -o requirements/gpu.txt
compile --group build -o requirements/build.txt
compile --group generate -o requirements/generate.txt
for client in triton kserve; do
    compile "tests/contract/requirements-$client.in" -o "tests/contract/requirements-$client.txt"
done
for peer in triton kserve mlserver bentoml litserve; do
    compile "benchmarks/peers/requirements/$peer.in" -o "benchmarks/peers/requirements/$peer.txt"
done
compile --no-deps tests/contract/requirements-tensorflow-serving.in -o tests/contract/requirements-tensorflow-serving.txt
