"""Tensors on disk: safetensors with a JSON header, a format version and a checksum. Nothing is ever unpickled.

The checksum finds damage and careless editing; it is no signature and proves nothing about who wrote a file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from mrl.errors import RunError

KINDS = {torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}  # as safetensors calls them
FORMAT = 1  # of everything in a run directory; raised when an older reader would go wrong


def dump(tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file in memory. `meta` is anything JSON can hold; it comes back from `read`."""
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if storage in taken else tensor  # safetensors refuses shared storage
        taken.add(storage)
    text = json.dumps(dict(meta or {}))
    header = {"format": str(FORMAT), "meta": text, "sha256": _digest(own, text)}
    return safetensors.save(own, metadata=header)


@dataclass(frozen=True)
class Pieces:
    """A tensor that comes in pieces, along its first dimension, and is never held whole."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Iterable[Tensor]

    def __len__(self) -> int:
        return self.shape[0]


def stream(file: BinaryIO, tensors: Mapping[str, Pieces], meta: Mapping[str, Any] | None = None) -> None:
    """Write what `dump` makes to a file, with the tensors in the order of their names, each as it comes."""
    text, entries, start = json.dumps(dict(meta or {})), {}, 0
    for name in sorted(tensors):
        table = tensors[name]
        stop = start + math.prod(table.shape) * table.dtype.itemsize
        entries[name] = {"dtype": KINDS[table.dtype], "shape": list(table.shape), "data_offsets": [start, stop]}
        start = stop
    digest = hashlib.sha256(text.encode())
    told = {"format": str(FORMAT), "meta": text, "sha256": digest.hexdigest()}  # as long as what it will be
    header = json.dumps({"__metadata__": told, **entries}).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    for name in sorted(tensors):
        table, length = tensors[name], 0
        digest.update(_title(name, table.dtype, table.shape))
        for piece in table.pieces:
            data = piece.detach().cpu().contiguous().to(table.dtype)
            length += len(data)
            if data.numel():
                data = data.reshape(-1).view(torch.uint8).numpy()
                digest.update(data)
                file.write(data)
        if length != len(table):
            raise RunError(f"{name}: {length} rows came of {len(table)}; train the run again")
    file.seek(8 + header.index(told["sha256"].encode()))
    file.write(digest.hexdigest().encode())


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the meta of a file that `dump` made.

    Raises RunError where the file is missing, a pickle, damaged, changed since, or of another format version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file; train the run again") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); check the file's permissions") from None
    try:
        tensors = safetensors.load(data)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError):
        if data[:2] == b"PK" or (data[:1] == b"\x80" and data[1:2] in b"\x01\x02\x03\x04\x05"):
            raise RunError(
                f"{path}: is a pickle (torch.save), which can run code when read; refused, save it as safetensors"
            ) from None
        raise RunError(f"{path}: is not a whole safetensors file; restore a copy or train the run again") from None
    version = header.get("format")
    if "sha256" in header and version != str(FORMAT):
        raise RunError(
            f"{path}: has format {version}, this version of mrl reads format {FORMAT}; use the mrl that wrote it"
        )
    if header.get("sha256") != _digest(tensors, header.get("meta", "")):
        raise RunError(
            f"{path}: does not match its checksum, so it was damaged or changed; restore a copy or train again"
        )
    return tensors, json.loads(header["meta"])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_title(name, tensor.dtype, tensor.shape))
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _title(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands before the bytes of a tensor in the checksum."""
    return f"\0{name}\0{dtype}\0{tuple(shape)}\0".encode()
