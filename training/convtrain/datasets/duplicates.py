"""Images that are there twice where that matters: in two splits, or under two labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from convtrain.datasets.split import Split

EXAMPLES = 2
"""Pairs that are shown of each kind."""


class Finding(NamedTuple):
    """One thing that is wrong with the data as a whole."""

    summary: str
    """What a reader of the figures must know, a sentence."""
    examples: str
    """Some of the images, in pairs."""


class _Image(NamedTuple):
    """An image of a split, by its number there."""

    split: Split
    number: int

    @property
    def label(self) -> int:
        """Index of its class."""
        return int(self.split.labels[self.number])

    def text(self, labels: Sequence[str]) -> str:
        """What it is called in the data set: its file, or its number there and its label."""
        name = self.number if self.split.names is None else self.split.names[self.number]
        return repr(name) if isinstance(name, str) else f"image {name} ({labels[self.label]})"


_Contents: TypeAlias = dict[bytes, list[_Image]]
"""Images by the digest of their pixels."""


def find(train: Split, validation: Split, test: Split, labels: Sequence[str]) -> list[Finding]:
    """Look for identical pixels in two splits, and under two labels. None of it is an error.

    Args:
        train: images to train on.
        validation: images to choose by.
        test: images to measure on.
        labels: class names in the order of their index.
    """
    trained, chosen, tested = _by_content(train), _by_content(validation), _by_content(test)
    kinds = (
        (f"of {len(validation):,} images to choose by are also trained on", _copies(chosen, trained)),
        (f"of {len(test):,} test images are also trained on or chosen by", _copies(tested, trained | chosen)),
        ("images are also there under another label", _contradictions(trained, chosen, tested)),
    )
    return [
        Finding(
            f"{sum(len(images) for images, _ in groups):,} {text}, pixel for pixel.",
            "; ".join(f"{images[0].text(labels)} is {other.text(labels)}" for images, other in groups[:EXAMPLES]),
        )
        for text, groups in kinds
        if groups
    ]


def _by_content(split: Split) -> _Contents:
    found: _Contents = {}
    for number, image in enumerate(split.images):
        found.setdefault(hashlib.sha256(image.tobytes()).digest(), []).append(_Image(split, number))
    return found


def _copies(images: _Contents, others: _Contents) -> list[tuple[list[_Image], _Image]]:
    """Images that are among the others too, in groups of one content, each with one of those."""
    return [(group, others[content][0]) for content, group in images.items() if content in others]


def _contradictions(*splits: _Contents) -> list[tuple[list[_Image], _Image]]:
    """Images of one content and several labels, each group with one that has another label than its first."""
    everywhere: _Contents = {}
    for split in splits:
        for content, images in split.items():
            everywhere.setdefault(content, []).extend(images)
    others = ((group, [one for one in group if one.label != group[0].label]) for group in everywhere.values())
    return [(group, differing[0]) for group, differing in others if differing]
