"""Cutting a data set depends on nothing but its labels and the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convtrain.datasets import Dataset, Split, cut_validation
from convtrain.datasets.split import stratified
from convtrain.errors import DatasetError


def numbered(labels: list[int]) -> Split:
    """Images whose pixel is their place."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Split(images, np.array(labels, np.int64))


def test_the_same_seed_gives_the_same_cut(mnist_sample: Dataset) -> None:
    """Two cuts by one seed are equal, by another seed different."""
    first = cut_validation(mnist_sample.train, 0.2, 7)
    again = cut_validation(mnist_sample.train, 0.2, 7)
    other = cut_validation(mnist_sample.train, 0.2, 8)
    assert [part.digest() for part in first] == [part.digest() for part in again]
    assert first[1].digest() != other[1].digest()


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_cut_loses_nothing_and_repeats_nothing(labels: list[int], fraction: float, seed: int) -> None:
    """Every image is in one part; the size is the fraction, rounded; each class gives its share, give or take one."""
    whole = numbered(labels)
    train, validation = cut_validation(whole, fraction, seed)
    assert len(validation) == round(fraction * len(labels))
    assert sorted([*train.images.ravel(), *validation.images.ravel()]) == list(range(len(labels)))
    shares = np.bincount(whole.labels, minlength=5) * len(validation) / len(labels)
    assert np.all(np.abs(np.bincount(validation.labels, minlength=5) - shares) <= 1)
    assert np.all(np.diff(validation.images.ravel().astype(int)) > 0)


def test_all_can_be_chosen() -> None:
    """Asking for as many as there are gives them all, in order."""
    assert stratified(np.array([1, 0, 1, 0]), 4, 3).tolist() == [0, 1, 2, 3]


def test_the_digest_sees_pixels_labels_and_order() -> None:
    """Any change gives another digest."""
    split = numbered([0, 1, 0])
    changed_label = Split(split.images, np.array([0, 1, 1]))
    swapped = split.take(np.array([1, 0, 2]))
    digests = {split.digest(), changed_label.digest(), swapped.digest(), Split(split.images + 1, split.labels).digest()}
    assert len(digests) == 4
    # Memory layout is no part of the content.
    assert Split(np.asfortranarray(split.images), split.labels).digest() == split.digest()


def test_a_limited_data_set_says_so(mnist_sample: Dataset) -> None:
    """Quick tries cannot be taken for the real thing."""
    limited = mnist_sample.limited(50, 1)
    assert (len(limited.train), len(limited.test)) == (50, 50)
    assert limited.note == "a sample Limited to 50 images of each split."
    assert len(mnist_sample.limited(300, 1).test) == 240


def test_an_empty_split_is_an_error(mnist_sample: Dataset) -> None:
    """Nothing to train on or to measure on."""
    empty = Dataset(name="x", labels=("a", "b"), train=numbered([]), test=mnist_sample.test)
    with pytest.raises(DatasetError, match="somewhere: the training split is empty"):
        empty.checked("somewhere")
