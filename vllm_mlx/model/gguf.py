"""A GGUF file as an mlx-lm folder in the cache. How names, blocks and tokens map is in gguf_*."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mlx.errors import ModelError
from vllm_mlx.model.cache_folder import cache_root, file_sha256, open_or_write
from vllm_mlx.model.gguf_config import attention_heads, generation_config, model_config
from vllm_mlx.model.gguf_file import GgufFile, read_gguf
from vllm_mlx.model.gguf_tokenizer import write_tokenizer
from vllm_mlx.model.gguf_weights import (
    Conversion,
    plan_conversions,
    planned_bytes,
    quantization_config,
    write_weights,
)
from vllm_mlx.model.progress import Progress, no_progress

CONVERTER_VERSION = 1  # raised whenever the same file would be written differently
EDGE_BYTES = 256 * 1024
SPARE_BYTES = 64 * 2**20  # tokenizer and the file system's own needs


@dataclass(frozen=True)
class _Source:
    """The GGUF as the manifest remembers it."""

    path: Path
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "_Source":
        try:
            status = path.stat()
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from error
        return cls(path, status.st_size, status.st_mtime_ns)

    def fingerprint(self) -> str:
        """Names the cache folder: of the size and both ends, so that it costs nothing to take."""
        digest = hashlib.sha256(str(self.size_bytes).encode())
        with self.path.open("rb") as file:
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(0, self.size_bytes - EDGE_BYTES))
            digest.update(file.read(EDGE_BYTES))
        return digest.hexdigest()[:12]

    def is_in(self, manifest: dict[str, Any]) -> bool:
        """Whether the manifest speaks of this very file; reads it all only if it was touched."""
        if manifest.get("converter_version") != CONVERTER_VERSION:
            return False
        source = manifest.get("source")
        if not isinstance(source, dict) or source.get("size_bytes") != self.size_bytes:
            return False
        same = source.get("mtime_ns") == self.mtime_ns and source.get("path") == str(self.path)
        return same or source.get("sha256") == file_sha256(self.path)


def converted_folder(path: Path, root: Path | None = None) -> Path:
    """Where the conversion of this GGUF lies, or would lie."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip(".-") or "model"
    fingerprint = _Source.of(path).fingerprint()
    return (root or cache_root()) / f"{stem}-{fingerprint}"


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise ModelError(
            f"converting needs {needed_bytes / 1e9:.1f} GB in {folder.parent}, "
            f"where {free / 1e9:.1f} GB are free"
        )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_folder(
    folder: Path, gguf: GgufFile, conversions: list[Conversion], progress: Progress
) -> None:
    config = model_config(gguf) | quantization_config(conversions)
    _check_space(folder, planned_bytes(conversions))
    write_tokenizer(folder, gguf)
    _write_json(folder / "config.json", config | {"converted_from": gguf.path.name})
    _write_json(folder / "generation_config.json", generation_config(gguf))
    stage, total = f"converting {gguf.path.name}", sum(c.source.nbytes for c in conversions)
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done, total)

    with (folder / "model.safetensors").open("wb") as file:
        write_weights(file, gguf, conversions, on_bytes)


def convert_gguf(path: Path, *, root: Path | None = None, progress: Progress = no_progress) -> Path:
    """The mlx-lm folder made of ``path``: from the cache if it is there and whole, else written.

    Blocks of the common quantizations are kept as they are (see gguf_quants). Safe against a
    second process doing the same. Raises ModelError for a file that is damaged, not supported
    or does not fit on the disk.
    """
    path = Path(os.path.abspath(path))
    source = _Source.of(path)

    def write(folder: Path) -> dict[str, Any]:
        gguf = read_gguf(path)
        conversions = plan_conversions(gguf, *attention_heads(gguf))
        _write_folder(folder, gguf, conversions, progress)
        return {
            "converter_version": CONVERTER_VERSION,
            "source": {
                "path": str(path),
                "size_bytes": source.size_bytes,
                "mtime_ns": source.mtime_ns,
                "sha256": file_sha256(path),
            },
        }

    return open_or_write(converted_folder(path, root), source.is_in, write)
