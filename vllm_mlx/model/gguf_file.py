"""Reads a GGUF file: metadata, and where each tensor lies. What the values mean is not here."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from vllm_mlx.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
# GGUF value type -> struct format
SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: ``shape`` is rows first (GGUF stores it columns first)."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """A parsed header. ``metadata`` has plain Python values; arrays of numbers are numpy arrays."""

    path: Path
    size_bytes: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    def raw(self, tensor: GgufTensor) -> npt.NDArray[np.uint8]:
        """The tensor's bytes as ``[rows, bytes per row]``, mapped from the file."""
        rows = math.prod(tensor.shape[:-1])
        return np.memmap(
            self.path,
            dtype=np.uint8,
            mode="r",
            offset=tensor.offset,
            shape=(rows, tensor.nbytes // rows),
        )


class _Reader:
    """A cursor over the header."""

    def __init__(self, data: mmap) -> None:
        self.data, self.at = data, 0

    def scalar(self, fmt: str) -> Any:
        (value,) = struct.unpack_from("<" + fmt, self.data, self.at)
        self.at += struct.calcsize("<" + fmt)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        start = self.at
        self.at += length
        if self.at > len(self.data):
            raise struct.error("a string runs past the end")
        return self.data[start : self.at].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        return self.scalar(SCALARS[kind])

    def array(self) -> Any:
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind in (STRING, ARRAY):
            return [self.value(kind) for _ in range(count)]
        dtype = np.dtype("<" + SCALARS[kind])
        values = np.frombuffer(self.data, dtype, count, self.at).copy()
        self.at += values.nbytes
        return values


def _tensor_bytes(kind: GGMLQuantizationType, shape: tuple[int, ...]) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"a row of {shape[-1]} values is no whole number of {kind.name} blocks")
    return math.prod(shape) // block * block_bytes


def _read_tensors(reader: _Reader, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
    infos = []
    for _ in range(count):
        name = reader.string()
        shape = tuple(reader.scalar("Q") for _ in range(reader.scalar("I")))
        infos.append((name, shape[::-1], reader.scalar("I"), reader.scalar("Q")))
    return infos


def _parse(path: Path, data: mmap) -> GgufFile:
    reader = _Reader(data)
    reader.at = len(MAGIC)
    version = reader.scalar("I")
    if version not in VERSIONS:
        raise ModelError(f"{path}: GGUF version {version} is not known (2 and 3 are)")
    tensor_count, pair_count = reader.scalar("Q"), reader.scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = reader.string()
        metadata[key] = reader.value(reader.scalar("I"))
    infos = _read_tensors(reader, tensor_count)
    alignment = int(metadata.get("general.alignment", 32))
    base = -(-reader.at // alignment) * alignment
    tensors = []
    for name, shape, code, offset in infos:
        kind = GGMLQuantizationType(code)
        tensor = GgufTensor(name, kind, shape, base + offset, _tensor_bytes(kind, shape))
        if tensor.offset + tensor.nbytes > len(data):
            raise ModelError(
                f"{path}: the file ends inside tensor {name}; is the download complete?"
            )
        tensors.append(tensor)
    return GgufFile(path, len(data), metadata, tuple(tensors))


def read_gguf(path: Path) -> GgufFile:
    """Parse the header of ``path``. Raises ModelError if it is no whole GGUF file."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelError(f"{path} is not a GGUF file (it does not begin with 'GGUF')")
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                return _parse(path, data)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (struct.error, ValueError, KeyError, MemoryError, OverflowError) as error:
        raise ModelError(f"{path} is not a readable GGUF file: {error}") from error


def plain(value: Any) -> Any:
    """A metadata value without numpy types, for JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
