"""Labelled images: MNIST, CIFAR-10, or any folder of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from convserve.manifest import DecodePolicy, InputSpec
from convtrain.datasets import cache, cifar10, folder, mnist
from convtrain.datasets.split import Dataset, Labels, Split, cut_validation
from convtrain.errors import DatasetError

__all__ = ["Dataset", "DatasetKind", "Labels", "Split", "cut_validation", "load"]

DatasetKind: TypeAlias = Literal["mnist", "cifar10", "folder"]


def load(
    kind: DatasetKind,
    data_dir: Path | None,
    spec: InputSpec,
    policy: DecodePolicy,
    *,
    check_digests: bool = True,
) -> Dataset:
    """Load a data set into memory; the official ones are downloaded when no local copy is given.

    Args:
        kind: which one.
        data_dir: local files; None downloads into the user's cache.
        spec: the images' size. Folders are brought to it, the official sets must have it.
        policy: how a folder's images are brought to that size.
        check_digests: refuse other content than the official one.

    Raises:
        DatasetError: a file is missing, damaged or not what it says; names it.
    """
    if data_dir is not None and not data_dir.exists():
        raise DatasetError(f"{data_dir}: there is no such file or directory (--data-dir)")
    if kind == "folder":
        if data_dir is None:
            raise DatasetError("--data-dir is missing: the folder that holds train/ and test/")
        return folder.load(data_dir, data_dir.resolve().name, spec, policy, cache.directory())
    loader = mnist.load if kind == "mnist" else cifar10.load
    dataset = loader(data_dir, cache.directory(), check_digests=check_digests)
    if dataset.train.images.shape[1:] != spec.shape or dataset.test.images.shape[1:] != spec.shape:
        found = " and ".join("×".join(map(str, part.images.shape[1:])) for part in (dataset.train, dataset.test))
        raise DatasetError(f"{data_dir or kind}: images are {found}, the preset wants {'×'.join(map(str, spec.shape))}")
    return dataset
