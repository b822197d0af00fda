"""Give versions that were published without TensorFlow Serving's warm-up requests theirs, from their golden images.

Nothing else of a version changes: all other files are checked first, and the manifest gains one digest.

    python scripts/add_warmup_requests.py models/mnist/1
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from convserve import manifest
from convtrain import files, warmup


def main(directory: Path) -> None:
    """Complete one version."""
    content, _ = manifest.read(directory)
    if warmup.WARMUP_FILE in content.files:
        sys.exit(f"{directory}: has its warm-up requests")
    manifest.verify_files(directory, content)
    golden = files.read_arrays(directory / manifest.GOLDEN_FILE, ["image"])
    warmup.write(directory, content.model, golden["image"])
    listed = {**content.files, warmup.WARMUP_FILE: manifest.sha256_file(directory / warmup.WARMUP_FILE)}
    manifest.write(directory, msgspec.structs.replace(content, files=dict(sorted(listed.items()))))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(Path(argument))
