"""A GGUF's vocabulary, merges and token types as a Hugging Face fast tokenizer."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from vllm_mlx.errors import ModelError
from vllm_mlx.model.gguf_file import GgufFile, plain

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # llama.cpp's token types
SPACE = "\u2581"  # SentencePiece's visible space
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_SPLIT = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
LLAMA3_SPLIT = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


def _split(pattern: str) -> Callable[[], Any]:
    def build() -> Any:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    return build


# tokenizer.ggml.pre -> how text is cut before the merges
PRE_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    **dict.fromkeys(("gpt-2", "gpt2", "olmo", "jais", "phi-2"), _byte_level),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _digits),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _split(QWEN2_SPLIT)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"), _split(LLAMA3_SPLIT)),
    "tekken": _split(TEKKEN_SPLIT),
}
COMPOSED = frozenset({"qwen2", "deepseek-r1-qwen", "megrez"})  # text is normalised to NFC
WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})  # a known word is not merged


class _Vocabulary:
    """The token list of one file, with its types and named tokens."""

    def __init__(self, gguf: GgufFile) -> None:
        self.metadata, self.file = gguf.metadata, gguf.path.name
        if "tokenizer.ggml.tokens" not in self.metadata:
            raise ModelError(f"{self.file}: no tokenizer in the metadata")
        self.tokens: list[str] = self.metadata["tokenizer.ggml.tokens"]
        kinds = self.metadata.get("tokenizer.ggml.token_type")
        self.kinds = np.ones(len(self.tokens), int) if kinds is None else np.asarray(kinds)

    def setting(self, name: str, default: Any = None) -> Any:
        return plain(self.metadata.get(f"tokenizer.ggml.{name}", default))

    def named(self, name: str) -> str | None:
        token_id = self.setting(f"{name}_token_id")
        return None if token_id is None else self.tokens[token_id]

    def added(self) -> list[AddedToken]:
        """Tokens matched whole in a text, special ones and others, in order of id."""
        special = {UNKNOWN, CONTROL}
        return [
            AddedToken(self.tokens[i], normalized=False, special=int(self.kinds[i]) in special)
            for i in np.flatnonzero(np.isin(self.kinds, (UNKNOWN, CONTROL, USER_DEFINED)))
            if self.tokens[i]
        ]


def _byte_level_bpe(vocabulary: _Vocabulary) -> Tokenizer:
    pre = vocabulary.setting("pre", "gpt-2")
    build = PRE_TOKENIZERS.get("gpt-2" if pre == "default" else pre)
    if build is None:
        raise ModelError(
            f"{vocabulary.file}: pre-tokenizer '{pre}' is not known "
            f"(known: {', '.join(sorted(PRE_TOKENIZERS))})"
        )
    merges = [tuple(m.split(" ", 1)) for m in vocabulary.setting("merges", [])]
    vocab = {token: i for i, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre in WHOLE_WORDS))
    if pre in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges_by_score(tokens: list[str], scores: Any) -> list[tuple[str, str]]:
    """SentencePiece's merges: every way to make a token of two, best score first."""
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens, scores, strict=True):
        pairs = []
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                pairs.append((left, right))
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += [(score, pair) for pair in pairs]
    merges.sort(key=lambda entry: -entry[0])
    return [pair for _, pair in merges]


def _sentencepiece_bpe(vocabulary: _Vocabulary) -> Tokenizer:
    tokens, scores = vocabulary.tokens, vocabulary.setting("scores")
    if scores is None:
        raise ModelError(f"{vocabulary.file}: the vocabulary has no scores")
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab,
            _merges_by_score(tokens, scores),
            unk_token=vocabulary.named("unknown"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(vocabulary.setting("add_space_prefix", True))
    visible_space = normalizers.Replace(" ", SPACE)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), visible_space])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = visible_space
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


# tokenizer.ggml.model -> builder
KINDS: Mapping[str, Callable[[_Vocabulary], Tokenizer]] = {
    "gpt2": _byte_level_bpe,
    "llama": _sentencepiece_bpe,
}


def _adds_bos(vocabulary: _Vocabulary) -> bool:
    """What the file says; else yes for SentencePiece and for Llama 3 and its like."""
    default = vocabulary.setting("model") == "llama" or vocabulary.setting("pre") in WHOLE_WORDS
    return bool(vocabulary.setting("add_bos_token", default))


def _add_bos_and_eos(tokenizer: Tokenizer, vocabulary: _Vocabulary) -> None:
    bos, eos = vocabulary.named("bos"), vocabulary.named("eos")
    before = [bos] if bos and _adds_bos(vocabulary) else []
    after = [eos] if eos and vocabulary.setting("add_eos_token", False) else []
    if not before and not after:
        return
    pieces = [*before, "$A", *after]
    pair = [*pieces, *(f"{piece}:1" for piece in [*before, "$B", *after])]
    ids = [(t, vocabulary.tokens.index(t)) for t in dict.fromkeys([*before, *after])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=pieces, pair=pair, special_tokens=ids
    )


def build_tokenizer(gguf: GgufFile) -> Tokenizer:
    """The fast tokenizer of a GGUF. Raises ModelError for a kind that is not known."""
    vocabulary = _Vocabulary(gguf)
    kind = vocabulary.setting("model")
    if kind not in KINDS:
        raise ModelError(
            f"{vocabulary.file}: tokenizer kind '{kind}' is not supported ({', '.join(KINDS)} are)"
        )
    tokenizer = KINDS[kind](vocabulary)
    added = vocabulary.added()
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    _add_bos_and_eos(tokenizer, vocabulary)
    if tokenizer.get_vocab_size(with_added_tokens=True) > len(vocabulary.tokens):
        raise ModelError(f"{vocabulary.file}: a special token is not in the vocabulary")
    return tokenizer


def tokenizer_config(gguf: GgufFile) -> dict[str, Any]:
    """tokenizer_config.json, chat template not included."""
    vocabulary = _Vocabulary(gguf)
    named = {
        "bos_token": vocabulary.named("bos"),
        "eos_token": vocabulary.named("eos"),
        "pad_token": vocabulary.named("padding"),
        "unk_token": vocabulary.named("unknown"),
    }
    return {
        # A class of its own name would rebuild the pre-tokenizer and lose the one written
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: token for key, token in named.items() if token is not None},
        "model_max_length": plain(gguf.metadata.get(f"{gguf.architecture}.context_length")),
        "clean_up_tokenization_spaces": False,
    }


def write_tokenizer(folder: Path, gguf: GgufFile) -> None:
    """tokenizer.json, tokenizer_config.json and, if the file has one, chat_template.jinja."""
    build_tokenizer(gguf).save(str(folder / "tokenizer.json"), pretty=False)
    text = json.dumps(tokenizer_config(gguf), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    if template := gguf.metadata.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
