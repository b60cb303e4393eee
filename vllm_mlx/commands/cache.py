"""`vllm-mlx cache stats|clear|verify DIR`: the SSD tier's directory, without a server."""

from datetime import UTC, datetime

from vllm_mlx.cache.disk_offline import (
    DirectoryReport,
    FolderReport,
    clear_directory,
    stats_directory,
    verify_directory,
)

MIB = 1 << 20


def stats(directory: str) -> str:
    """What is there, a paragraph a model. Raises ConfigError, OSError."""
    report = stats_directory(directory)
    used_by = f"in use by process {report.used_by}" if report.used_by else "not in use"
    written = f"written on {report.day}: {_mib(report.written_today_bytes)}" if report.day else ""
    lines = [f"{directory}: {_total(report)}, {used_by}", *([written] if written else [])]
    for folder in report.folders:
        lines += ["", *_folder_lines(folder)]
    return "\n".join(lines)


def clear(directory: str) -> str:
    """Remove every record of every model. Raises ConfigError where a server runs, OSError."""
    removed = clear_directory(directory)
    return f"{directory}: {_mib(removed)} removed"


def verify(directory: str) -> tuple[str, bool]:
    """Read everything; the findings, and whether all of it is whole.

    Raises ConfigError where a server runs, OSError.
    """
    report = verify_directory(directory)
    lines = []
    for folder in report.folders:
        lines += [*_folder_lines(folder), f"  {_verdict(folder)}", ""]
    ending = "everything is whole" if report.is_whole else "damaged records are never served"
    return "\n".join([*lines, f"{directory}: {_total(report)}; {ending}"]), report.is_whole


def _folder_lines(folder: FolderReport) -> list[str]:
    words = folder.words.splitlines() or ["(no readable file)"]
    used = "never"
    if folder.last_used_ms:
        used = datetime.fromtimestamp(folder.last_used_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    return [
        folder.name,
        *(f"  {line}" for line in words),
        f"  {folder.records} blocks, {_mib(folder.payload_bytes)} of payload in {folder.files}"
        f" files of {_mib(folder.file_bytes)}; last used {used} UTC",
    ]


def _verdict(folder: FolderReport) -> str:
    if folder.is_whole:
        return "whole"
    return (
        f"damaged: {folder.damaged_records} payloads, {folder.damaged_headers} headers,"
        f" {folder.damaged_files} files"
    )


def _total(report: DirectoryReport) -> str:
    return _mib(sum(folder.file_bytes for folder in report.folders))


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / MIB:.1f} MiB"
