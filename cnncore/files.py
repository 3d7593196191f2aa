"""Model files: one uncompressed .npz with an array for each path, and `meta`, JSON as bytes.

A file is written beside its destination, brought to the disk and then renamed, so that at any
moment the old or the new file is whole. Nothing in it is ever executed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import DataFormatError
from .npz import Archive
from .reference.case import Array
from .shapes import Shape

FORMAT = 1
META = "meta"
_LONGEST_META = 16 << 20


def save(
    path: str | os.PathLike[str], meta: Mapping[str, Any], members: Mapping[str, Array]
) -> None:
    """Writes a model file. OSError if that fails; the file that was there then remains."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder, expected a file", str(target))
    text = json.dumps({"format": FORMAT, **meta}, allow_nan=False, sort_keys=True)
    arrays = {META: np.frombuffer(text.encode(), np.uint8), **members}
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(beside, "xb") as stream:
            _write(stream, arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        if isinstance(error, OSError):
            error.filename = str(target)
        raise
    _sync_folder(target.parent)


def _write(stream: IO[bytes], arrays: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # A fixed date: equal models make equal files.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                little = np.require(array, array.dtype.newbyteorder("<"), ["C"])
                np.lib.format.write_array(member, little, allow_pickle=False)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ModelFile:
    """A model file opened for reading. Raises DataFormatError for anything that is not one."""

    def __init__(self, stream: IO[bytes], source: str) -> None:
        self.source = source
        self.size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        self.archive = Archive(stream, source)
        self.meta = self._read_meta()

    def _read_meta(self) -> dict[str, Any]:
        member = self.archive.member(META, ("uint8",))
        if len(member.shape) != 1 or member.nbytes > min(_LONGEST_META, self.size):
            raise DataFormatError(f"{self.source}: meta has shape {member.shape}")
        try:
            meta = json.loads(
                bytes(self.archive.read(member)),
                object_pairs_hook=_no_duplicates,
                parse_constant=_no_constants,
            )
        except (ValueError, RecursionError) as error:
            raise DataFormatError(f"{self.source}: meta is not valid JSON ({error})") from None
        found = meta.get("format") if isinstance(meta, dict) else None
        if type(found) is not int or found < 1:
            raise DataFormatError(f"{self.source}: this is not a model file of this library")
        if found > FORMAT:
            raise DataFormatError(
                f"{self.source}: written in format {found} by version "
                f"{meta.get('version')}; this version reads up to format {FORMAT}"
            )
        return dict(meta)

    def expect_only(self, paths: Collection[str]) -> None:
        """Refuses a file that has arrays of other paths."""
        others = self.archive.others({META, *paths})
        if others:
            raise DataFormatError(
                f"{self.source}: expected no members but those of its net, found "
                f"{', '.join(others)}"
            )

    def arrays(self, shapes: Mapping[str, Shape], dtype: str) -> dict[str, Array]:
        """The arrays of these paths, each of exactly this shape and dtype."""
        members = {}
        for path, shape in shapes.items():
            member = self.archive.member(path, (dtype,))
            if member.shape != shape:
                raise DataFormatError(
                    f"{self.source}: {path} has shape {member.shape}, expected {shape}"
                )
            members[path] = member
        total = sum(member.nbytes for member in members.values())
        if total > self.size:
            raise DataFormatError(
                f"{self.source}: its arrays declare {total} bytes, the file has {self.size}"
            )
        return {path: self.archive.read(member) for path, member in members.items()}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")
