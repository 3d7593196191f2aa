"""Read numpy .npz archives and .npy files that come from anywhere.

`numpy.load` allocates what a member's header declares before it looks at the data, and goes by
the size that the zip directory gives. Here the header, the directory and the data must agree, and
memory is taken only for data that is really there. The formats are those of numpy's documentation
of `numpy.lib.format` and of PKWARE's APPNOTE.TXT.
"""

from __future__ import annotations

import copy
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from .errors import DataFormatError

# numpy refuses a header text of more than 10,000 characters; an ordinary one has about 118.
_HEAD_BYTES = 12 + 10_000
# The most dimensions that every version of numpy has.
MAX_RANK = 32
# More than is read here beyond the size of a member, with what zipfile reads ahead (4 KiB).
_ROOM_BYTES = 1 << 20
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1
_PIECE_BYTES = 1 << 20

# What zipfile and zlib raise on damaged input; OSError is among it because zipfile seeks to
# whatever offset the directory holds.
_ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
# What numpy's parser lets through, which evaluates the header as a Python literal. A deeply
# nested one ends in RecursionError or, from the parser's own stack limit, MemoryError.
_HEADER_DAMAGE = (
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


class Readable(Protocol):
    """A binary file open for reading, or what decompresses one."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes at most, none only at the end."""
        ...


def read_bounded(stream: Readable, limit: int) -> bytearray:
    """Return what follows in `stream`, `limit` bytes at most.

    The buffer grows with what is really read, so a size that a file merely claims costs nothing.
    Asking for one byte more than expected shows an over-long stream, and brings a stream of the
    right length to its end, where zip and gzip compare their checksum.
    """
    data = bytearray()
    while len(data) < limit:
        piece = stream.read(min(_PIECE_BYTES, limit - len(data)))
        if not piece:
            break
        data += piece
    return data


def native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array C-contiguous and in the byte order of this machine."""
    return np.require(array, array.dtype.newbyteorder("="), ["C"])


class Member(NamedTuple):
    """An array in a file as its header describes it; the data start at byte `offset`.

    `name` stands for it in messages, `file` is what the archive calls it.
    """

    name: str
    file: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of data that the header declares."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check_size(self, found: int) -> None:
        """Raise DataFormatError unless the header declares `found` bytes of data."""
        if found != self.nbytes:
            raise DataFormatError(
                f"{self.name}: expected {self.nbytes} bytes of data, as its header declares by "
                f"shape {self.shape} and dtype {self.dtype}, found {found}"
            )

    def check_form(self, types: tuple[str, ...]) -> None:
        """Raise DataFormatError unless there are data, of one of the `types`."""
        if self.dtype.name not in types:
            raise DataFormatError(
                f"{self.name}: expected dtype {' or '.join(types)}, found {self.dtype}"
            )
        if min(self.shape, default=1) < 1:
            raise DataFormatError(
                f"{self.name}: expected some data, found empty shape {self.shape}"
            )

    def array(self, data: bytearray) -> npt.NDArray[Any]:
        """Return the data as an array, writable, C-contiguous and in native byte order.

        Raises:
            DataFormatError: there are less or more data than declared.
        """
        self.check_size(len(data))
        array = np.frombuffer(data, self.dtype)
        return native(array.reshape(self.shape, order="F" if self.fortran else "C"))


class Archive:
    """The arrays of an .npz archive."""

    def __init__(self, stream: IO[bytes], source: str) -> None:
        """Read the directory of an archive; `source` is its name in messages.

        Raises:
            DataFormatError: the stream is not a zip archive, or lists a name twice.
        """
        self._source = source
        with _refusing_damage(source):
            self._zip = zipfile.ZipFile(stream)
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.filename in self._infos:
                raise DataFormatError(
                    f"{source}: expected every member once, found {info.filename} twice"
                )
            self._infos[info.filename] = info

    def __contains__(self, array: str) -> bool:
        """Tell whether the archive lists an array of this name."""
        return f"{array}.npy" in self._infos

    def others(self, arrays: Collection[str]) -> list[str]:
        """Return the members that are none of these arrays."""
        return sorted(set(self._infos) - {f"{array}.npy" for array in arrays})

    def member(self, array: str, types: tuple[str, ...]) -> Member:
        """Return the description of an array after checking it against the directory.

        Raises:
            DataFormatError: the member is missing, damaged, not of one of the `types`, or not of
                the size that its header declares.
        """
        name = f"{self._source}: {array}.npy"
        if array not in self:
            present = ", ".join(sorted(self._infos)) or "no members"
            raise DataFormatError(f"{name}: expected this member, found {present}")
        info = self._infos[f"{array}.npy"]
        if info.compress_type not in _METHODS or info.flag_bits & _ENCRYPTED:
            raise DataFormatError(
                f"{name}: expected a stored or deflated member, found compression method "
                f"{info.compress_type} and flags {info.flag_bits:#x}"
            )
        with _refusing_damage(name), self._open(info) as stream:
            head = stream.read(_HEAD_BYTES)
        member = _describe(name, info.filename, head)
        member.check_form(types)
        member.check_size(max(info.file_size - member.offset, 0))
        return member

    def read(self, member: Member) -> npt.NDArray[Any]:
        """Return the array, writable, C-contiguous and in native byte order.

        Raises:
            DataFormatError: the member holds less or more than declared, or fails its checksum.
        """
        with _refusing_damage(member.name), self._open(self._infos[member.file]) as stream:
            stream.read(member.offset)
            data = read_bounded(stream, member.nbytes + 1)
        return member.array(data)

    def _open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        # zipfile stops at the size in the directory without a word, also where the data go on.
        # With room beyond that size it runs into the real end of the data and compares their
        # checksum there, or hands out the byte too many.
        longer = copy.copy(info)
        longer.file_size += _ROOM_BYTES
        return self._zip.open(longer)


@contextmanager
def _refusing_damage(name: str) -> Iterator[None]:
    try:
        yield
    except _ZIP_DAMAGE as error:
        raise DataFormatError(
            f"{name}: expected an intact .npz archive, found damage ({error})"
        ) from error


def read_npy(stream: IO[bytes], source: str, types: tuple[str, ...]) -> npt.NDArray[Any]:
    """Return the array in an .npy file, as `Archive.read` does; `source` is its name in messages.

    Raises:
        DataFormatError: the file is damaged, or its array is not of one of the `types`.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    member = _describe(source, source, stream.read(_HEAD_BYTES))
    member.check_form(types)
    member.check_size(max(size - member.offset, 0))
    stream.seek(member.offset)
    return member.array(read_bounded(stream, member.nbytes + 1))


def _describe(name: str, file: str, head: bytes) -> Member:
    stream = io.BytesIO(head)
    try:
        version = npy.read_magic(stream)
        # Later versions exist for field names, which no supported dtype has.
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, fortran, dtype = readers[version](stream)
    except _HEADER_DAMAGE as error:
        raise DataFormatError(
            f"{name}: expected an .npy header of version 1.0 or 2.0, found {head[:16]!r} ({error})"
        ) from error
    # numpy takes True for a size, and more of them than an array may have.
    if len(shape) > MAX_RANK or not all(type(size) is int for size in shape):
        raise DataFormatError(
            f"{name}: expected a shape of at most {MAX_RANK} sizes, found {shape}"
        )
    return Member(name, file, stream.tell(), shape, dtype, fortran)
