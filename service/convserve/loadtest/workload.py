"""Requests, ready to send, with the answers that are right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convserve.errors import ConfigError
from convserve.loadtest.dialects import Answer, Dialect
from convserve.loadtest.http2 import frame_message
from convserve.loadtest.samples import Sample

TOLERANCE = 1e-3
"""How far a probability may be from the expected one: sums in another order move float32 by about 1e-6."""

_MOST_REQUESTS, _MOST_BYTES = 512, 64 * 2**20
"""Most that is prepared, unless it takes more for every sample to travel."""


@dataclass(frozen=True)
class Expected:
    """What the right answer for a sample is."""

    classes: tuple[int, ...]
    """The most probable class; more than one where others are as probable, within the tolerance."""
    probability: float
    """Of the most probable class."""
    version: str
    """The model version that said so."""


@dataclass(frozen=True)
class Prepared:
    """A request and what its reply should say."""

    framed: bytes
    """As it goes into DATA frames."""
    rows: int
    labels: tuple[int | None, ...]
    """The true class of each row, where known."""
    expected: tuple[Expected, ...]
    """The right answer for each row; empty: nobody knows."""


@dataclass(frozen=True)
class Mix:
    """Batch sizes and how often each comes."""

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean rows of a request."""
        return sum(size * weight for size, weight in zip(self.sizes, self.weights, strict=True)) / sum(self.weights)

    def __str__(self) -> str:
        """As it is written on a command line."""
        if len(self.sizes) == 1:
            return str(self.sizes[0])
        return ",".join(f"{size}:{weight:g}" for size, weight in zip(self.sizes, self.weights, strict=True))


def parse_mix(text: str) -> Mix:
    """Read `8`, or `1:90,8:10`: sizes with weights.

    Raises:
        ConfigError: says what came and what is wanted.
    """
    try:
        pairs = [part.partition(":") for part in text.split(",")]
        sizes = tuple(int(size) for size, _, _ in pairs)
        weights = tuple(float(weight) if colon else 1.0 for _, colon, weight in pairs)
    except ValueError as error:
        raise ConfigError(f"batch: {text!r} came; wanted is a size such as 8, or a mix such as 1:90,8:10") from error
    if any(not 1 <= size <= 4096 for size in sizes) or not (min(weights) > 0 and math.isfinite(sum(weights))):
        raise ConfigError(f"batch: {text!r} came; sizes are 1 to 4096 and weights above 0")
    return Mix(sizes, weights)


def prepare(
    samples: Sequence[Sample], expected: Sequence[Expected], mix: Mix, dialect: Dialect, seed: int
) -> list[Prepared]:
    """Put samples into requests, every sample in turn, sizes drawn from the mix; sent again and again in this order.

    Args:
        samples: at least one.
        expected: the right answer for each sample, or empty.
        mix: batch sizes.
        dialect: writes the messages.
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    shares = np.array(mix.weights) / sum(mix.weights)
    largest = max(len(dialect.request([sample])) for sample in samples) * max(mix.sizes)
    rounds = -(-len(samples) // min(mix.sizes))
    count = max(len(mix.sizes), min(_MOST_REQUESTS, rounds * len(mix.sizes), _MOST_BYTES // largest))
    sizes = generator.choice(np.array(mix.sizes), max(count, len(samples)), p=shares)
    count = max(count, int(np.searchsorted(np.cumsum(sizes), len(samples))) + 1)  # enough that every sample travels
    prepared, at = [], 0
    for size in sizes[:count].tolist():
        chosen = [(at + step) % len(samples) for step in range(size)]
        at += size
        prepared.append(
            Prepared(
                frame_message(dialect.request([samples[index] for index in chosen])),
                size,
                tuple(samples[index].label for index in chosen),
                tuple(expected[index] for index in chosen) if expected else (),
            )
        )
    return prepared


@dataclass(slots=True)
class Check:
    """What comparing answers found."""

    rows: int = 0
    """Rows that were compared with an expected answer."""
    wrong: int = 0
    """Of those, rows whose answer is another one."""
    other_version: int = 0
    """Rows that another version answered than the one that was asked before the run; they are not compared."""
    labelled: int = 0
    """Rows whose true class is known."""
    right: int = 0
    """Of those, rows that were classified rightly."""
    first_wrong: str = ""
    """The first wrong answer, in words."""

    def add(self, other: Check) -> None:
        """Take in what another process found."""
        self.rows += other.rows
        self.wrong += other.wrong
        self.other_version += other.other_version
        self.labelled += other.labelled
        self.right += other.right
        self.first_wrong = self.first_wrong or other.first_wrong

    def compare(self, request: Prepared, answer: Answer) -> bool:
        """Compare an answer with what is expected. Returns whether nothing in it is wrong."""
        if len(answer.classes) != request.rows:
            self.rows += request.rows
            self.wrong += request.rows
            self.first_wrong = self.first_wrong or f"{len(answer.classes)} rows came back for {request.rows}"
            return False
        good = True
        for row, expected in enumerate(request.expected):
            if answer.version != expected.version:
                self.other_version += 1
                continue
            self.rows += 1
            index, probability = answer.classes[row], answer.probabilities[row]
            if (
                not abs(probability - expected.probability) <= TOLERANCE or index not in expected.classes
            ):  # NaN is wrong
                good = False
                self.wrong += 1
                self.first_wrong = self.first_wrong or (
                    f"class {index} with {probability:.4f} came for row {row} of {request.rows}; asked alone, the"
                    f" server said class {expected.classes[0]} with {expected.probability:.4f}"
                )
        for row, label in enumerate(request.labels):
            if label is not None:
                self.labelled += 1
                self.right += answer.classes[row] == label
        return good


def telling(expected: Sequence[Expected]) -> float:
    """The share of samples whose right answer differs from that of the next one: whether a mix-up would show."""
    if len(expected) < 2:
        return 0.0
    pairs = zip(expected, [*expected[1:], expected[0]], strict=True)
    differ = [
        one.classes != other.classes or abs(one.probability - other.probability) > 2 * TOLERANCE for one, other in pairs
    ]
    return sum(differ) / len(differ)
