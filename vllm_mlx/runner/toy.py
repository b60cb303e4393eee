"""``model=toy``: a deterministic model without weights, for fast tests and protocol work.

It has the default model's tokenizer and yields logits, so scheduling, sampling, prefix cache,
logprobs, stops and usage are the real code. What it says is planned from the prompt; its logits
only lean towards the plan, so temperature, bias and penalties still change the answer.
"""

import json
import re
import time
from itertools import count
from pathlib import Path
from typing import Any

import mlx.core as mx

from vllm_mlx.cache.base import KvCache
from vllm_mlx.core.card import ModelCard
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.errors import ModelError
from vllm_mlx.model.codec import HuggingFaceCodec
from vllm_mlx.model.load import end_token_ids, load_tokenizer, read_json
from vllm_mlx.model.progress import Progress
from vllm_mlx.model.resolve import resolve_model
from vllm_mlx.runner.base import Grant, Loaded, Unread

LEAN = 12.0  # added to the logit of the planned token; the others are normally distributed
LONGEST_ECHO_TOKENS = 20
KV_BYTES_PER_TOKEN = 1024  # what admission counts; nothing is stored
LAST_USER_TURN = re.compile(r"<\|im_start\|>user\n((?:(?!<\|im_start\|>).)*?)<\|im_end\|>", re.S)


class ToyModel:
    """See ``runner.base.ModelSource``. ``script`` is a JSON file: a list of replies, each a text or
    ``{"content": text, "tool_calls": [{"name": ..., "arguments": {...}}]}``, given in order of
    arrival and from the start again; tool calls are written in Hermes' format.
    """

    def __init__(self, script: str | None, context_tokens: int) -> None:
        self._replies = None if script is None else read_script(Path(script).expanduser())
        self._context_tokens = context_tokens

    def load(self, kv: KvCache, progress: Progress) -> Loaded:
        folder = resolve_model("embedded", progress=progress)
        tokenizer, _ = load_tokenizer(folder)
        codec = HuggingFaceCodec(tokenizer)
        kv.open(0, KV_BYTES_PER_TOKEN, self._context_tokens)
        eos_ids = end_token_ids(
            read_json(folder / "config.json"),
            read_json(folder / "generation_config.json"),
            tokenizer,
        )
        card = ModelCard(
            id="toy",
            created=int(time.time()),
            architecture="toy",
            mode="toy",
            mode_reason="it has no weights",
            dtype="float32",
            context_tokens=min(self._context_tokens, kv.capacity_tokens),
            vocab_tokens=codec.vocab_tokens,
            weights_bytes=0,
            kv_bytes_per_token=KV_BYTES_PER_TOKEN,
            capabilities={"chat": True, "completions": True},
            notes=("the toy model: planned answers without any weights, for tests only",),
            eos_token_ids=eos_ids,
        )
        return Loaded(
            runner=ToyRunner(codec, eos_ids[0], self._replies),
            codec=codec,
            card=card,
            token_bytes=codec.token_bytes_table(),
            special_ids=codec.special_ids,
        )


class ToyRunner:
    """See ``runner.base.GenerationRunner``."""

    def __init__(self, codec: HuggingFaceCodec, eos_id: int, replies: list[str] | None) -> None:
        self._codec, self._eos_id, self._replies = codec, eos_id, replies
        self._next_reply = count()
        self._plans: dict[int, list[int]] = {}
        self._base = mx.random.normal((1, codec.vocab_tokens), key=mx.random.key(0))

    def forward(self, grants: list[Grant], unread: Unread | None) -> mx.array:
        planned = [token for grant in grants for token in self._planned(grant)]
        if not planned:
            return mx.zeros((0, self._base.shape[1]))
        logits = mx.repeat(self._base, len(planned), axis=0)
        return logits.at[mx.arange(len(planned)), mx.array(planned)].add(LEAN)

    def state(self) -> list[mx.array]:
        return []

    def forget(self, sequence: Sequence) -> None:
        """A preempted sequence keeps its plan, so that it goes on as it began."""
        if sequence.state == "finished":
            self._plans.pop(sequence.number, None)

    def reset(self) -> None:
        """Nothing is computed from keys and values."""

    def scrub(self, block_ids: list[int]) -> None:
        """Nothing is stored."""

    def trim(self, extent_blocks: int) -> None:
        """Nothing is stored."""

    @property
    def allocated_bytes(self) -> int:
        return 0

    def _planned(self, grant: Grant) -> list[int]:
        """The token to follow each position whose logits are wanted."""
        sequence = grant.sequence
        prompt = sequence.generation.prompt_ids
        first = grant.start if grant.scores else grant.end - grant.num_logits
        return [
            prompt[place + 1] if place + 1 < len(prompt) else self._reply_token(sequence, place)
            for place in range(first, grant.end)
        ]

    def _reply_token(self, sequence: Sequence, place: int) -> int:
        if sequence.number not in self._plans:
            self._plans[sequence.number] = self._plan(sequence)
        plan, index = self._plans[sequence.number], place + 1 - sequence.prompt_tokens
        return plan[index] if index < len(plan) else self._eos_id

    def _plan(self, sequence: Sequence) -> list[int]:
        if self._replies is not None and sequence.number >= 0:
            text = self._replies[next(self._next_reply) % len(self._replies)]
            return self._codec.encode(text, add_special_tokens=False)
        said = self._codec.decode(sequence.generation.prompt_ids[-512:], skip_special_tokens=False)
        turns = LAST_USER_TURN.findall(said)
        echo = self._codec.encode(turns[-1] if turns else said, add_special_tokens=False)
        start = self._codec.encode("You said: ", add_special_tokens=False)
        return [*start, *echo[-LONGEST_ECHO_TOKENS:]]


def read_script(path: Path) -> list[str]:
    """The replies of a script file as texts. Raises ModelError naming the file and the entry."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.script {path}: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ModelError(f"model.script {path}: a list of at least one reply is expected")
    return [_reply_text(entry, f"model.script {path}[{i}]") for i, entry in enumerate(entries)]


def _reply_text(entry: Any, where: str) -> str:
    if isinstance(entry, str):
        return entry
    if not _is_reply(entry):
        raise ModelError(f"{where}: a text, or an object with content or tool_calls, is expected")
    parts = [entry.get("content") or ""]
    for call in entry.get("tool_calls") or []:
        if not isinstance(call, dict) or "name" not in call:
            raise ModelError(f"{where}: a tool call needs a name")
        body = {"name": call["name"], "arguments": call.get("arguments", {})}
        parts.append(f"<tool_call>\n{json.dumps(body)}\n</tool_call>")
    return "\n".join(part for part in parts if part)


def _is_reply(entry: Any) -> bool:
    if not isinstance(entry, dict) or not {"content", "tool_calls"} & entry.keys():
        return False
    return isinstance(entry.get("content"), str | None)
