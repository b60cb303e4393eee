"""Which models are on this machine: the embedded one, converted ones, the hub's cache."""

from pathlib import Path
from typing import Literal, NamedTuple

from vllm_mlx.errors import ModelError
from vllm_mlx.model.cache_folder import MANIFEST, cache_root, is_whole
from vllm_mlx.model.gguf import converted_folder
from vllm_mlx.model.resolve import EMBEDDED, find_embedded_gguf


class KnownModel(NamedTuple):
    """``name`` is what ``model.path`` takes."""

    name: str
    kind: Literal["embedded", "converted", "hub"]
    folder: Path
    size_bytes: int
    note: str  # "" if it is ready


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _embedded(root: Path) -> KnownModel | None:
    try:
        gguf = find_embedded_gguf()
    except ModelError:
        return None
    folder = converted_folder(gguf, root)
    note = "" if folder.is_dir() else "converted on first use"
    return KnownModel(EMBEDDED, "embedded", gguf.parent, gguf.stat().st_size, note)


def _converted(root: Path) -> list[KnownModel]:
    folders = sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    return [
        KnownModel(
            str(folder),
            "converted",
            folder,
            _folder_bytes(folder),
            "" if is_whole(folder) else "damaged, made again on next use",
        )
        for folder in folders
        if not folder.name.startswith(".")
    ]


def _hub(cache: Path | None) -> list[KnownModel]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        scanned = scan_cache_dir(cache)
    except CacheNotFound:
        return []
    found = []
    for repo in scanned.repos:
        if repo.repo_type != "model":
            continue
        for revision in repo.revisions:
            has_config = (revision.snapshot_path / "config.json").exists()
            has_gguf = any(file.file_name.endswith(".gguf") for file in revision.files)
            if has_config or has_gguf:
                note = "" if has_config else "GGUF: name the file, ORG/NAME/FILE.gguf"
                found.append(
                    KnownModel(
                        repo.repo_id, "hub", revision.snapshot_path, revision.size_on_disk, note
                    )
                )
    return sorted(found)


def list_models(root: Path | None = None, hub_cache: Path | None = None) -> list[KnownModel]:
    """Every model that starts without a download, embedded first."""
    root = root or cache_root()
    embedded = _embedded(root)
    return [*([embedded] if embedded else []), *_converted(root), *_hub(hub_cache)]
