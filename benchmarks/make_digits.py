"""Make ``cnncore/data/digits.npz`` from the copy of the data that scikit-learn carries.

Needs scikit-learn, which nothing else in this project uses:

    python benchmarks/make_digits.py cnncore/data/digits.npz

The result depends on the seed below only, so running it again gives the same arrays.
"""

from __future__ import annotations

import sys
from importlib import import_module

import numpy as np
import numpy.typing as npt

SEED = 20240229
TRAIN, VALIDATION, TEST = 0, 1, 2


def stratified_split(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give every sample a part: 7 of 10 train, 1 of 10 validation, 2 of 10 test.

    The samples are shuffled, sorted by class (a stable sort keeps the shuffle within a class)
    and dealt out in turn, so that each class has its share of each part to within one sample.
    """
    shuffled = np.random.RandomState(SEED).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    turn = np.arange(len(labels)) % 10
    split = np.full(len(labels), TRAIN, dtype=np.uint8)
    split[dealt[turn == 2]] = VALIDATION
    split[dealt[(turn == 1) | (turn == 6)]] = TEST
    return split


def main(path: str) -> None:
    """Write images (1797, 8, 8) of 0..16, labels (1797,) and split (1797,), all uint8."""
    # Imported by name: scikit-learn is neither a dependency nor typed.
    bunch = import_module("sklearn.datasets").load_digits()
    images = bunch.images.astype(np.uint8)
    if not np.array_equal(images, bunch.images):
        raise ValueError("the source images are not whole numbers of 0..255")
    labels = bunch.target.astype(np.uint8)
    split = stratified_split(labels)
    np.savez_compressed(path, images=images, labels=labels, split=split)
    print(f"{path}: train, validation, test = {np.bincount(split).tolist()}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_digits.py OUTPUT.npz")
    main(sys.argv[1])
