"""What this installation, machine and model repository are like, and what a server would make of them."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import convserve
from convserve import host, manifest, repository
from convserve.config import Settings
from convserve.errors import ConvserveError
from convserve.lifecycle import VersionPolicy

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
    """Every version found, whether its files are those published, and whether the policy wants it."""
    try:
        found = repository.scan(settings.model_repository)
    except ConvserveError as error:
        problems.append(str(error))
        return {}
    report: dict[str, Any] = {}
    for model, versions in found.items():
        checked = {number: _check(entry, problems) for number, entry in sorted(versions.items())}
        damaged = [number for number, entry in checked.items() if entry["files"] == "damaged"]
        wanted = VersionPolicy.parse(settings.for_model(model).version_policy).wanted(versions, damaged)
        report[model] = {number: {"wanted": number in wanted, **entry} for number, entry in checked.items()}
        if not versions:
            problems.append(f"model {model!r} has no version: no folder named by a number holds a manifest.json")
    return report


def _check(found: repository.FoundVersion, problems: list[str]) -> dict[str, Any]:
    try:
        read, digest = manifest.read(found.directory)
        manifest.verify_files(found.directory, read)
    except ConvserveError as error:
        problems.append(str(error))
        return {"files": "damaged"}
    return {"files": "as published", "digest": digest, "metrics": read.metrics, "variants": ["fp32", *read.variants]}
