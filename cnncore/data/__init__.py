"""Data sets: the digits of the package, .npz files, MNIST, CIFAR-10 and folders of images.

Every reader returns a `Dataset` and checks what it reads: a damaged or contradictory file ends in
`DataFormatError`, not in wrong data, a huge allocation or the execution of a pickle.
"""

from ..errors import DataFormatError
from ._cifar import load_cifar10
from ._dataset import Dataset
from ._idx import load_idx, read_idx
from ._images import is_image, load_images, read_image
from ._load import digits, load
from ._npz import load_npz
from ._samples import read_samples

__all__ = [
    "DataFormatError",
    "Dataset",
    "digits",
    "is_image",
    "load",
    "load_cifar10",
    "load_idx",
    "load_images",
    "load_npz",
    "read_idx",
    "read_image",
    "read_samples",
]
