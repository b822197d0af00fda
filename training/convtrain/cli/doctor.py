"""`convtrain doctor`: what training would use here."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from convserve import host
from convtrain import backend, environment
from convtrain.datasets import cache
from convtrain.errors import MissingExtraError

LEAST_FREE_BYTES = 2 * 2**30
"""Space for a data set, its decoded copy, a run and a version."""


def doctor(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Look at libraries, devices and memory, and say what will be used. Returns the exit code."""
    found = examine()
    if options.json:
        print(json.dumps(found))
    else:
        _print(found)
    return 1 if found["problems"] else 0


def examine() -> dict[str, Any]:
    """Look at everything."""
    machine = host.inspect()
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = shutil.disk_usage(".").free
    found: dict[str, Any] = {
        **environment.describe(),
        "memory_bytes": min(machine.memory_bytes or physical, physical),
        "free_bytes": free,
        "data_cache": str(cache.directory()),
        "numpy_blas": np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"],
        "problems": [],
    }
    missing = [name for name in backend.LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        found["problems"].append(f"not installed: {', '.join(missing)}; {backend.INSTALL_HINT}")
    if free < LEAST_FREE_BYTES:
        found["problems"].append(f"{free / 2**30:.1f} GiB are free on this disk, a training wants 2")
    if "tensorflow" not in missing and "keras" not in missing:
        found |= _tensorflow(found["problems"])
    if importlib.util.find_spec("jax") is not None:
        found |= _jax(found["problems"])
    return found


def _tensorflow(problems: list[str]) -> dict[str, Any]:
    try:
        tf = backend.tensorflow()
    except MissingExtraError as error:
        problems.append(str(error))
        return {}
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    if not gpus and shutil.which("nvidia-smi"):
        problems.append(
            "there is an NVIDIA driver and TensorFlow sees no GPU; install its libraries: "
            "pip install 'tensorflow[and-cuda]'"
        )
    build = tf.sysconfig.get_build_info()
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0" and sys.platform == "linux"
    device = f"GPU ({details[0]}), memory taken as needed" if gpus else "CPU"
    return {
        "gpus": details,
        "cuda": build.get("cuda_version", ""),
        "onednn": onednn,
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or host.inspect().affinity_cores,
        "will_use": f"{device}, float32, deterministic kernels",
    }


def _jax(problems: list[str]) -> dict[str, Any]:
    """What `convtrain train --backend jax` would use."""
    try:
        jax = backend.jax()
    except MissingExtraError as error:
        problems.append(str(error))
        return {}
    return {"jax": jax.__version__, "jax_devices": [device.device_kind for device in jax.devices()]}


def _print(found: dict[str, Any]) -> None:
    print(f"system      {found['system']}, Python {found['python']}")
    print(f"processor   {found['processor']}, cores allowed: {found['cores']}")
    print(f"memory      {found['memory_bytes'] / 2**30:.1f} GiB allowed")
    print(f"disk        {found['free_bytes'] / 2**30:.1f} GiB free here; data sets are kept in {found['data_cache']}")
    print("libraries   " + ", ".join(f"{name} {found[name]}" for name in backend.LIBRARIES if name in found))
    print(f"NumPy's BLAS {found['numpy_blas']}")
    if "will_use" in found:
        print(
            f"GPUs        {', '.join(found['gpus']) or 'none'}" + (f" (CUDA {found['cuda']})" if found["cuda"] else "")
        )
        print(f"oneDNN      {'on' if found['onednn'] else 'off'}")
        print(f"will use    {found['will_use']}, {found['threads']} threads")
    if "jax" in found:
        print(f"JAX         {found['jax']} on {', '.join(found['jax_devices'])}, for `convtrain train --backend jax`")
    for problem in found["problems"]:
        print(f"PROBLEM     {problem}")
