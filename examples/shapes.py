"""Draws a data set: bright shapes of any colour, size, place and angle on dark grounds, with noise.

python examples/shapes.py shapes                        # 1,000 images in shapes/<label>/
python examples/shapes.py unseen --count 5 --seed 2     # 20 others
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
FINE = 4  # drawn so much larger, then shrunk: smooth edges
CORNERS = {"circle": 90, "square": 4, "star": 10, "triangle": 3}


def corners(label: str, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape around (0, 0); every second one of a star lies further in."""
    count = CORNERS[label]
    return [
        (reach * math.cos(turn + 2 * math.pi * index / count), reach * math.sin(turn + 2 * math.pi * index / count))
        for index in range(count)
        for reach in [radius * (0.45 if label == "star" and index % 2 else 1.0)]
    ]


def draw(label: str, rng: np.random.Generator) -> Image.Image:
    """Draw one image, 64×64 in colour."""
    ground, colour = rng.integers(0, 110, 3), rng.integers(140, 256, 3)
    size = SIDE * FINE
    radius = size * rng.uniform(0.2, 0.36)
    x, y = rng.uniform(radius, size - radius, 2)
    image = Image.new("RGB", (size, size), tuple(ground.tolist()))
    outline = [(x + dx, y + dy) for dx, dy in corners(label, radius, rng.uniform(0, 2 * math.pi))]
    ImageDraw.Draw(image).polygon(outline, fill=tuple(colour.tolist()))
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    return Image.fromarray((pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8))


def main() -> None:
    """Draw a folder of labelled images."""
    parser = argparse.ArgumentParser(description="Draw a folder of labelled shapes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=250, help="images of each label (default: 250)")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other images (default: 1)")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    for label in CORNERS:
        (options.folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(options.count):
            draw(label, rng).save(options.folder / label / f"{number:03}.png")


if __name__ == "__main__":
    main()
