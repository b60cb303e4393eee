"""The safetensors format without MLX: read a header, write a file piece by piece."""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vllm_mlx.errors import ModelError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
DTYPE_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file. ``dtype`` is the format's word for it (F32, BF16, U32, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def read_header(path: Path) -> list[TensorInfo]:
    """Names, dtypes and shapes, without the data. Raises ModelError if the file is damaged."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                raise ModelError(f"{path} is not a safetensors file")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        infos = [TensorInfo(n, str(v["dtype"]), tuple(v["shape"])) for n, v in header.items()]
        data_bytes = max((v["data_offsets"][1] for v in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}") from error
    if path.stat().st_size < 8 + length + data_bytes:
        raise ModelError(f"{path} is cut short; is the download complete?")
    return infos


class SafetensorsWriter:
    """A file whose tensors are known beforehand and filled row by row, in any order."""

    def __init__(self, file: BinaryIO, infos: Iterable[TensorInfo]) -> None:
        self._file = file
        self._start: dict[str, int] = {}
        self._written: dict[str, int] = {}
        header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        offset = 0
        for info in infos:
            header[info.name] = {
                "dtype": info.dtype,
                "shape": list(info.shape),
                "data_offsets": [offset, offset + info.nbytes],
            }
            self._start[info.name] = offset
            offset += info.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._base = 8 + len(text)
        self.total_bytes = self._base + offset
        file.write(struct.pack("<Q", len(text)) + text)

    def append(self, name: str, values: npt.NDArray[Any]) -> None:
        """Write the next rows of one tensor."""
        done = self._written.get(name, 0)
        self._file.seek(self._base + self._start[name] + done)
        self._file.write(np.ascontiguousarray(values).data)
        self._written[name] = done + values.nbytes
