"""Options of the ``model`` group that load a checkpoint: folder, runner, codec and card."""

import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx.cache.base import KvCache
from vllm_mlx.core.card import ModelCard
from vllm_mlx.errors import ModelError
from vllm_mlx.model.capabilities import Capabilities, read_capabilities
from vllm_mlx.model.codec import HuggingFaceCodec
from vllm_mlx.model.hub import Download
from vllm_mlx.model.load import LoadedCheckpoint, load_checkpoint
from vllm_mlx.model.progress import Progress
from vllm_mlx.model.resolve import find_embedded_gguf, resolve_model
from vllm_mlx.runner.base import GenerationRunner, Loaded
from vllm_mlx.runner.probe import Finding, find_mode
from vllm_mlx.runner.row_padding import measure_padding
from vllm_mlx.runner.rows import RowsRunner
from vllm_mlx.runner.token_rows import TokenRowsRunner
from vllm_mlx.settings import DownloadSettings, SamplingDefaults

# A context that nothing states: recurrent models go on for ever; memory is then the limit.
UNSTATED = 1 << 20


class CheckpointModel:
    """A checkpoint on disk or on the hub; see ``runner.base.ModelSource``. Reads nothing yet."""

    def __init__(
        self,
        path: str,
        revision: str | None,
        dtype: str,
        mode: str,
        context_tokens: int | None,
        trust_remote_code: bool,
        download: DownloadSettings,
        chat_template: str | None,
        chat_template_kwargs: dict[str, Any],
        sampling: SamplingDefaults,
    ) -> None:
        self._path, self._revision, self._dtype, self._mode = path, revision, dtype, mode
        self._context_tokens, self._trust_remote_code = context_tokens, trust_remote_code
        self._download, self._sampling = download, sampling
        self._chat_template, self._chat_template_kwargs = chat_template, chat_template_kwargs

    def load(self, kv: KvCache, progress: Progress) -> Loaded:
        folder = self._resolve(progress)
        checkpoint = load_checkpoint(
            folder,
            dtype=self._dtype,
            report=progress,
            trust_remote_code=self._trust_remote_code,
        )
        vocab_tokens = logit_width(checkpoint.model)
        codec = self._codec(checkpoint, vocab_tokens)
        capabilities = read_capabilities(checkpoint.config, codec)
        fused = mx.default_device() != mx.Device(mx.cpu)
        finding = find_mode(checkpoint.model, vocab_tokens, kv.block_tokens, fused, self._mode)
        if self._mode == "token_rows" and finding.mode != "token_rows":
            raise ModelError(f"model.mode=token_rows cannot be: {finding.reason}")
        per_token = kv_bytes_per_token(checkpoint.model, finding)
        context = min(capabilities.context_tokens or UNSTATED, self._context_tokens or UNSTATED)
        capacity = kv.open(checkpoint.weights_bytes, per_token, context)
        runner = _make_runner(checkpoint.model, finding, kv.block_tokens, capacity, fused)
        return Loaded(
            runner=runner,
            codec=codec,
            card=self._card(
                checkpoint, capabilities, finding, per_token, context, kv, vocab_tokens
            ),
            token_bytes=codec.token_bytes_table(),
            special_ids=codec.special_ids,
        )

    def _resolve(self, progress: Progress) -> Path:
        download = Download(
            timeout_seconds=self._download.timeout_seconds,
            retries=self._download.retries,
            offline=self._download.offline,
        )
        return resolve_model(
            self._path,
            revision=self._revision,
            download=download,
            trust_remote_code=self._trust_remote_code,
            progress=progress,
        )

    def _codec(self, checkpoint: LoadedCheckpoint, vocab_tokens: int) -> HuggingFaceCodec:
        template = None
        if self._chat_template is not None:
            try:
                template = Path(self._chat_template).expanduser().read_text(encoding="utf-8")
            except OSError as error:
                raise ModelError(f"model.chat_template: {error}") from error
        return HuggingFaceCodec(
            checkpoint.tokenizer,
            chat_function=checkpoint.chat_function,
            vocab_rows=vocab_tokens,
            chat_template=template,
            template_arguments=self._chat_template_kwargs,
        )

    def _card(
        self,
        checkpoint: LoadedCheckpoint,
        capabilities: Capabilities,
        finding: Finding,
        per_token: int,
        context: int,
        kv: KvCache,
        vocab_tokens: int,
    ) -> ModelCard:
        notes = []
        if kv.capacity_tokens < context:
            notes.append(
                f"memory holds {kv.capacity_tokens} tokens of keys and values, less than the"
                f" model's context of {context}: the context is cut to that"
            )
        if capabilities.unused_senses:
            notes.append(f"{', '.join(capabilities.unused_senses)} input is not used: text only")
        return ModelCard(
            id=_name_of(self._path),
            aliases=("smollm2",) if self._path == "embedded" else (),
            created=int(time.time()),
            architecture=checkpoint.model_type,
            mode="token_rows" if finding.mode == "token_rows" else "rows",
            mode_reason=_reason(finding),
            dtype=checkpoint.dtype,
            context_tokens=min(context, kv.capacity_tokens),
            vocab_tokens=vocab_tokens,
            weights_bytes=checkpoint.weights_bytes,
            kv_bytes_per_token=per_token,
            modalities=capabilities.modalities,
            capabilities={
                "chat": capabilities.has_chat_template or self._chat_template is not None,
                "completions": True,
                "tools_in_template": capabilities.has_tools,
                "thinking_in_template": capabilities.has_thinking,
            },
            notes=tuple(notes),
            eos_token_ids=checkpoint.eos_token_ids,
            sampling_defaults=self._sampling_defaults(checkpoint.generation_config),
        )

    def _sampling_defaults(self, generation_config: dict[str, Any]) -> dict[str, float]:
        """Options first, then the checkpoint's generation_config; None means nothing said."""
        names = self._sampling.__struct_fields__
        told = {name: getattr(self._sampling, name) for name in names}
        said = {name: generation_config.get(name) for name in names}
        if generation_config.get("do_sample") is False:
            said = dict.fromkeys(names)
        values = {name: said[name] if told[name] is None else told[name] for name in names}
        return {name: value for name, value in values.items() if value is not None}


def _make_runner(
    model: Any, finding: Finding, block_tokens: int, capacity_blocks: int, fused: bool
) -> GenerationRunner:
    if finding.mode == "token_rows":
        padding = measure_padding(finding.layers[0].dtype)
        return TokenRowsRunner(model, finding.layers, block_tokens, capacity_blocks, padding, fused)
    return RowsRunner(model, lambda: make_prompt_cache(model), batched=finding.mode == "rows")


def kv_bytes_per_token(model: Any, finding: Finding) -> int:
    """What one more token takes in the cache, all layers together; measured where it is not known.

    State that does not grow with tokens (recurrent layers) counts as nothing here.
    """
    if finding.layers:
        return sum(layer.bytes_per_token for layer in finding.layers)
    # mlx-lm's caches grow in steps of 256 tokens
    sizes = []
    for tokens in (256, 512):
        caches = make_prompt_cache(model)
        mx.eval(model(mx.zeros((1, tokens), dtype=mx.int32), cache=caches))
        sizes.append(sum(int(cache.nbytes) for cache in caches))
    return max(1, (sizes[1] - sizes[0]) // 256)


def _reason(finding: Finding) -> str:
    return {
        "token_rows": finding.reason,
        "rows": f"batched rows, since {finding.reason}",
        "single_rows": f"rows one at a time, since {finding.reason}",
    }[finding.mode]


def logit_width(model: Any) -> int:
    """How many ids the model scores; found without computing anything."""
    logits: mx.array = model(mx.zeros((1, 1), dtype=mx.int32))
    return logits.shape[-1]


def _name_of(path: str) -> str:
    """A folder's or file's own name; a hub id as it is."""
    if path == "embedded":
        return find_embedded_gguf().name.split(".")[0]
    local = Path(path).expanduser()
    if local.is_dir():
        return local.resolve().name
    return local.stem if local.is_file() else path
