#!/bin/sh
# Part of the image build: install our wheel beside its pinned requirements, check them, and compile all to byte code.
# Byte code that is never checked against its source: nothing can change on a read-only root, and it has no time stamp
# that would make two builds differ.
set -eu
pip="/opt/build/bin/pip --python /opt/convserve/bin/python"
$pip install --quiet --no-compile --no-index --no-deps /wheel/*.whl
$pip check
PYTHONHASHSEED=0 /opt/convserve/bin/python -m compileall -q -f --invalidation-mode unchecked-hash -x '/(test|tests)/' /opt/convserve/lib
