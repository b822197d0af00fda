"""What this installation, machine and model repository are like, and what a server would make of them."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import convserve
from convserve import host, manifest, repository
from convserve.config import Settings
from convserve.errors import ConvserveError
from convserve.lifecycle import VersionPolicy

if TYPE_CHECKING:
    from convserve.signing import Verifier

_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorflow",
    "grpcio",
    "protobuf",
    "numpy",
    "pillow",
    "prometheus-client",
)


def examine(settings: Settings) -> dict[str, Any]:
    """Look at everything. Nothing is started, and nothing is loaded but onnxruntime itself."""
    problems: list[str] = []
    found = host.inspect()
    report = {
        "convserve": convserve.__version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "packages": {name: _installed(name) for name in _PACKAGES},
        "host": asdict(found),
        "plan": asdict(host.plan(found, settings.workers, settings.intra_op_threads)),
        "providers": _providers(problems),
        "models": _models(settings, problems),
        "problems": problems,
    }
    packages = report["packages"]
    assert isinstance(packages, dict)  # noqa: S101  # tells mypy
    if packages["onnxruntime"] and packages["onnxruntime-gpu"]:
        problems.append("onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall one")
    return report


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _providers(problems: list[str]) -> list[str]:
    """What onnxruntime offers here."""
    if importlib.util.find_spec("onnxruntime") is None:
        problems.append("onnxruntime is not installed; pip install 'convserve[server]', or 'convserve[gpu]' for CUDA")
        return []
    from convserve.runtimes.onnx import available_providers

    return available_providers()


def _models(settings: Settings, problems: list[str]) -> dict[str, Any]:
    """Every version found, whether its files are those published, and whether the settings want it."""
    try:
        found = repository.scan(settings.model_repository)
        verifier = _verifier(settings)
    except ConvserveError as error:
        problems.append(str(error))
        return {}
    report: dict[str, Any] = {}
    for model, versions in found.items():
        checked = {number: _check(entry, verifier, problems) for number, entry in sorted(versions.items())}
        failing = [number for number, entry in checked.items() if entry["files"] != "as published"]
        for_model = settings.for_model(model)
        policy = replace(VersionPolicy.parse(for_model.version_policy), pinned=frozenset(for_model.aliases.values()))
        wanted = policy.wanted(versions, failing)
        report[model] = {number: {"wanted": number in wanted, **entry} for number, entry in checked.items()}
        if not versions:
            problems.append(f"model {model!r} has no version: no folder named by a number holds a manifest.json")
        elif not wanted and len(failing) < len(versions):
            problems.append(
                f"model {model!r} has the versions {', '.join(map(str, sorted(versions)))}, and version_policy"
                f" {for_model.version_policy!r} wants none of them"
            )
    return report


def _verifier(settings: Settings) -> Verifier | None:
    """Checks signatures; None: they are not required."""
    if not settings.require_signature:
        return None
    from convserve.signing import Verifier

    return Verifier(Path(settings.require_signature))


def _check(found: repository.FoundVersion, verifier: Verifier | None, problems: list[str]) -> dict[str, Any]:
    fault = "damaged"
    try:
        read, digest = manifest.read(found.directory)
        manifest.verify_files(found.directory, read)
        fault = "refused"
        manifest.check_place(found.directory, read, found.model, found.version)
        if verifier is not None:
            verifier.check(found.directory, manifest.read_bytes(found.directory))
    except ConvserveError as error:
        problems.append(str(error))
        return {"files": fault}
    return {"files": "as published", "digest": digest, "metrics": read.metrics, "variants": ["fp32", *read.variants]}
