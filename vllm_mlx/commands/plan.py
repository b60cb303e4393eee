"""The start-up plan: what was loaded, how it will run and where, for the person who started it."""

from vllm_mlx import __version__
from vllm_mlx.commands.machine import ATTENTION, backend_text, blas_text, gib, is_on_cpu
from vllm_mlx.core.card import EngineStatus, ModelCard
from vllm_mlx.model.blas import BlasReport
from vllm_mlx.settings import ServerSettings

MODES = {"token_rows": "token rows", "rows": "row mode", "toy": "toy"}


def table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"  {name:<11}{text}" for name, text in rows)


def memory_text(card: ModelCard, status: EngineStatus, settings: ServerSettings) -> str:
    capacity = status.kv_capacity_tokens
    pool = gib(capacity * card.kv_bytes_per_token)
    blocks = settings.cache.block_tokens
    each = gib(card.kv_bytes_per_token)
    return (
        f"weights {gib(card.weights_bytes)}; KV pool up to {pool} = {capacity:,} tokens "
        f"({each} a token, blocks of {blocks}), grows with use"
    )


def start_up_plan(
    card: ModelCard,
    status: EngineStatus,
    settings: ServerSettings,
    blas: BlasReport,
    url: str,
) -> str:
    """Several lines of text, the URL last."""
    rows = [
        ("model", f"{card.id} ({card.architecture}), context {card.context_tokens:,} tokens"),
        ("mode", f"{MODES[card.mode]}: {card.mode_reason}"),
        ("backend", backend_text()),
        ("dtype", card.dtype),
        ("memory", memory_text(card, status, settings)),
        ("attention", ATTENTION),
        *([("BLAS", blas_text(blas))] if is_on_cpu() else []),
        *(("note", note) for note in card.notes),
        ("URL", url),
    ]
    return f"vllm-mlx {__version__} is ready\n{table(rows)}"
