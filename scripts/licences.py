"""Write docs/licences.md: every package that the pins install, and its licence as the package itself states it.

    python scripts/licences.py

Reads the metadata of the packages installed beside this Python, which must be those of requirements/dev.txt.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
SETS = sorted({path.stem for path in (ROOT / "requirements").glob("*.txt")} - {"dev", "build", "generate"})
"""The requirement files of what is shipped; tools for developing and building are not."""

_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)")
_HEAD = """# Licences of what is installed

What the pins in `requirements/` install beside convserve itself (Apache-2.0), and the licence that each package states.
Made by `python scripts/licences.py`; a test tells when it no longer fits the pins. The base install, the client, is
grpcio, numpy, protobuf and typing-extensions. CUDA's libraries (`nvidia-*`, in the `gpu` set only) come under NVIDIA's
own terms.

| package | version | licence | installed by |
|---|---|---|---|
"""


def pins(name: str) -> dict[str, str]:
    """Package and version, as a requirement file pins them."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return {found[1].lower().replace("_", "-"): found[2] for line in lines if (found := _PIN.match(line))}


def licence(package: str) -> str:
    """What a package says of itself, on one line."""
    try:
        about: Any = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        if package.endswith("-gpu"):  # the same project's other build
            return licence(package.removesuffix("-gpu"))
        return "NVIDIA's own terms" if package.startswith("nvidia-") else "not installed where this was made"
    if about.get("License-Expression"):
        return str(about["License-Expression"])
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    named = [line.rpartition(" :: ")[2] for line in classifiers if not line.endswith("OSI Approved")]
    if named:
        return ", ".join(named)
    text = str(about.get("License") or "not stated").strip().splitlines()[0]
    return text if len(text) < 60 else f"{text[:57]}…"


def page() -> str:
    """The whole page."""
    versions: dict[str, str] = {}
    by_package: dict[str, list[str]] = {}
    for name in SETS:
        for package, version in pins(name).items():
            versions.setdefault(package, version)
            by_package.setdefault(package, []).append(name)
    rows = [
        f"| {package} | {versions[package]} | {licence(package)} | {', '.join(by_package[package])} |"
        for package in sorted(versions)
    ]
    return _HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write the page."""
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
