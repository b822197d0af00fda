"""Labelled images in memory, and the ways to cut them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from convserve.arrays import Images
from convtrain.errors import DatasetError

Labels: TypeAlias = npt.NDArray[np.int64]
"""int64 [N], index of the class of each image."""


@dataclass(frozen=True)
class Split:
    """Images with their labels, in a fixed order."""

    images: Images
    """uint8 [N, height, width, channels]."""
    labels: Labels
    """int64 [N]."""
    names: npt.NDArray[Any] | None = None
    """What each image is called in the data set: its file, or its number; None for numbers from 0 on."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.intp]) -> Split:
        """Copy the images at `indices`, in that order."""
        return Split(self.images[indices], self.labels[indices], indices if self.names is None else self.names[indices])

    def digest(self) -> str:
        """SHA-256 over the pixels in memory order, then over the labels as little-endian int64."""
        sha256 = hashlib.sha256(np.ascontiguousarray(self.images).data)
        sha256.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return sha256.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A training split and an untouched test split with the same classes."""

    name: str
    """Name for the manifest, such as `mnist`."""
    labels: tuple[str, ...]
    """Class names in the order of their index."""
    train: Split
    """Images to train on; the validation split is cut from here."""
    test: Split
    """Images that only the finished model sees."""
    note: str = ""
    """What a reader of the figures must know about this copy of the data."""

    def checked(self, source: str) -> Dataset:
        """Return it after checking that counts and labels fit together.

        Args:
            source: the file or folder it came from, for the error.

        Raises:
            DatasetError: a split is empty, has another number of labels than images, or a label out of range.
        """
        for name, split in (("training", self.train), ("test", self.test)):
            if len(split.images) != len(split.labels):
                raise DatasetError(
                    f"{source}: the {name} split has {len(split.images)} images and {len(split.labels)} labels"
                )
            if len(split) == 0:
                raise DatasetError(f"{source}: the {name} split is empty")
            wrong = np.flatnonzero((split.labels < 0) | (split.labels >= len(self.labels)))
            if len(wrong):
                raise DatasetError(
                    f"{source}: label {split.labels[wrong[0]]} of {name} image {wrong[0]} is not one of "
                    f"0..{len(self.labels) - 1}"
                )
        return self

    def limited(self, count: int, seed: int) -> Dataset:
        """Keep `count` images of each split at most, chosen by seed, each class with its share."""
        return replace(
            self,
            train=self.train.take(stratified(self.train.labels, min(count, len(self.train)), seed)),
            test=self.test.take(stratified(self.test.labels, min(count, len(self.test)), seed)),
            note=" ".join(filter(None, [self.note, f"Limited to {count} images of each split."])),
        )


def cut_validation(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cut the validation split from the training split. Returns (train, validation).

    The choice depends on the labels, the fraction and the seed alone; each class gives its share. Both parts keep the
    order of the images.
    """
    chosen = stratified(train.labels, round(fraction * len(train)), seed)
    kept = np.setdiff1d(np.arange(len(train)), chosen, assume_unique=True)
    return train.take(kept), train.take(chosen)


def stratified(labels: Labels, count: int, seed: int) -> npt.NDArray[np.intp]:
    """Choose exactly `count` indices by seed, each class with its share. Returns them in ascending order."""
    # In an order sorted by class and random within it, equally spaced places give each class its share.
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    places = ((np.arange(count) + 0.5) * len(labels) / max(count, 1)).astype(np.intp)
    return np.sort(order[places])
