"""Any colour mode of a file -> grey (`L`) or red, green, blue (`RGB`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops

if TYPE_CHECKING:
    from convserve.manifest import DecodePolicy

_NAMES = {
    "1": "1-bit",
    "L": "grey",
    "LA": "grey",
    "RGB": "RGB",
    "RGBA": "RGB",
    "P": "palette",
    "CMYK": "CMYK",
    "I;16": "16-bit grey",
}

_VISIBLE = 16
"""Smallest difference in grey, of 255, between the darkest and the lightest pixel of an image with something on it."""


def convert(image: Image.Image, channels: int, policy: DecodePolicy, steps: list[str]) -> Image.Image:
    """Bring the image to mode `L` (1 channel) or `RGB` (3 channels); transparent parts show `policy.background`."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    came = _NAMES[image.mode]
    if image.mode == "I;16":
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = _flatten(image.convert("RGBA"), policy, steps)
    elif image.mode == "P":
        image = image.convert("RGB")
    image = image.convert(mode)
    if came != _NAMES[mode]:
        steps.append(f"converted from {came}")
    return image


def invert(image: Image.Image) -> Image.Image:
    """Light becomes dark and dark becomes light."""
    return ImageChops.invert(image)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, rounded to nearest; keeps the transparent value, if there is one."""
    samples = np.asarray(image)  # uint16 [height, width]
    grey = Image.fromarray(((samples.astype(np.uint32) + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        alpha = np.where(samples == transparent, 0, 255).astype(np.uint8)
        grey = Image.merge("LA", (grey, Image.fromarray(alpha)))
    return grey


def _flatten(image: Image.Image, policy: DecodePolicy, steps: list[str]) -> Image.Image:
    """Lay an `RGBA` image over the policy's background.

    Strokes of the background's own colour on a transparent ground would vanish. Where polarity is found automatically,
    they are laid over the opposite instead.
    """
    background = policy.background
    flat = _over(image, background)
    if policy.polarity == "auto" and not _shows(flat):
        opposite = _over(image, 255 - background)
        if _shows(opposite):
            background, flat = 255 - background, opposite
    steps.append(f"alpha over {background}")
    return flat


def _over(image: Image.Image, grey: int) -> Image.Image:
    """Lay an `RGBA` image over a uniform grey; gives `RGB`."""
    ground = Image.new("RGBA", image.size, (grey, grey, grey, 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def _shows(image: Image.Image) -> bool:
    """Whether anything can be seen on the image."""
    return int(np.ptp(np.asarray(image.convert("L")))) >= _VISIBLE
