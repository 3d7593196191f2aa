"""Data sets: the digits that come with the package, .npz files and MNIST's IDX files.

Every reader returns a `Dataset` and checks what it reads: a damaged or contradictory file ends in
`DataFormatError`, not in wrong data, a huge allocation or the execution of a pickle.
"""

from ..errors import DataFormatError
from ._dataset import Dataset
from ._idx import load_idx, read_idx
from ._load import digits, load
from ._npz import load_npz

__all__ = [
    "DataFormatError",
    "Dataset",
    "digits",
    "load",
    "load_idx",
    "load_npz",
    "read_idx",
]
