"""What was needed for a moment goes back to the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import threading
from pathlib import Path
import numpy as np
from convserve import memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def work():
    for _ in range(3):
        np.ones(20_000_000, np.uint8)

memory.limit_arenas()
before = resident_mb()
thread = threading.Thread(target=work)
thread.start()
thread.join()
memory.give_back()
print(resident_mb() - before)
"""

BATCH_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from convserve import manifest as m
from convserve.runtimes.onnx import OnnxRuntime

def peak_mb():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6

directory = Path(sys.argv[1])
manifest, _ = m.read(directory)
runtime = OnnxRuntime(directory, manifest)
for _ in range(2):
    runtime.run(np.zeros((16, *manifest.input.shape), np.uint8))
before = peak_mb()
runtime.run(np.zeros((128, *manifest.input.shape), np.uint8))
print(peak_mb() - before)
"""


def test_a_large_batch_takes_no_more_memory_than_its_pieces() -> None:
    """What lies between a network's layers is that of 16 images, whatever the batch has; of 128 it were over 60 MB."""
    versions = (Path(__file__).parents[2] / "models/cifar10").iterdir()
    newest = max((one for one in versions if one.name.isdigit()), key=lambda one: int(one.name))
    command = [sys.executable, "-c", BATCH_SCRIPT, str(newest)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 10


def test_large_memory_of_a_thread_is_given_back() -> None:
    """A thread that takes and frees 20 MB a few times, as proving a version does, leaves next to nothing behind."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 5
