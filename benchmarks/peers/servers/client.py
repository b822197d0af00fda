"""tritonclient compares answers with golden ones: `client.py TARGET MODEL GOLDEN`. Status 1 if they differ."""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.grpc as triton

target, model, golden = sys.argv[1:]
client = triton.InferenceServerClient(target)
with np.load(golden) as arrays:
    images, expected = arrays["image"][:32], arrays["probabilities"][:32]


def ask(pixels: np.ndarray) -> np.ndarray:
    """The probabilities."""
    tensor = triton.InferInput("image", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    wanted = triton.InferRequestedOutput("probabilities")
    found: np.ndarray = client.infer(model, [tensor], outputs=[wanted]).as_numpy("probabilities")
    return found.reshape(len(pixels), -1)


together = ask(images)
alone = np.concatenate([ask(images[index : index + 1]) for index in range(8)])
for found, wanted in ((together, expected), (alone, expected[:8])):
    difference = float(np.abs(found - wanted).max())
    if found.shape != wanted.shape or difference > 1e-5:
        sys.exit(f"{target} answers otherwise: shape {found.shape}, largest difference {difference}")
