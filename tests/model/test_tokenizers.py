"""Rebuilt tokenizers, and the law of the table: the bytes of a text's tokens are the text."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.model.gguf_files import TinyGguf
from vllm_mlx.model.codec import HuggingFaceCodec
from vllm_mlx.model.gguf import convert_gguf
from vllm_mlx.model.gguf_file import read_gguf
from vllm_mlx.model.gguf_tokenizer import build_tokenizer
from vllm_mlx.model.load import load_tokenizer
from vllm_mlx.model.token_bytes import build_token_bytes, renderer_of

SEQUENCES = [
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈",
    "e\u0301",
    "日本語",
    "<|im_start|>",
    "  ",
    "\n\n",
    "▁",
    "<0x0A>",
    "Ġ",
]
TEXTS = st.lists(
    st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(SEQUENCES)),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def bpe(smollm2: Path) -> HuggingFaceCodec:
    return HuggingFaceCodec(load_tokenizer(smollm2)[0])


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceCodec:
    root = tmp_path_factory.mktemp("sentencepiece")
    TinyGguf("gemma3").write(root / "tiny.gguf")
    return HuggingFaceCodec(load_tokenizer(convert_gguf(root / "tiny.gguf", root=root))[0])


@given(text=TEXTS)
def test_bytes_of_a_byte_level_text(bpe: HuggingFaceCodec, text: str) -> None:
    table = bpe.token_bytes_table()
    ids = bpe.encode(text)
    joined = b"".join(table[i] for i in ids)
    assert joined.decode("utf-8", "replace") == bpe.decode(ids, skip_special_tokens=False)
    # this vocabulary has no token for a few control characters: they are dropped
    has_token = {token[0] for token in table if len(token) == 1}
    assert joined == bytes(byte for byte in text.encode() if byte in has_token)


@given(text=TEXTS)
def test_bytes_of_a_sentencepiece_text(sentencepiece: HuggingFaceCodec, text: str) -> None:
    ids = sentencepiece.encode(text, add_special_tokens=False)
    joined = b"".join(sentencepiece.token_bytes_table()[i] for i in ids)
    assert joined.decode() == sentencepiece.decode(ids, skip_special_tokens=False)
    # "▁" is how the vocabulary writes a space; a byte written out is that byte
    if "▁" not in text and "<0x" not in text:
        assert joined.decode() == text


@given(ids=st.lists(st.integers(0, 49151), max_size=30))
def test_bytes_of_any_tokens(bpe: HuggingFaceCodec, ids: list[int]) -> None:
    joined = b"".join(bpe.token_bytes_table()[i] for i in ids)
    assert joined.decode("utf-8", "replace") == bpe.decode(ids, skip_special_tokens=False)


def test_smollm2_is_as_published(smollm2: Path) -> None:
    codec = HuggingFaceCodec(load_tokenizer(smollm2)[0])
    assert codec.encode("Hello world") == [19556, 905]
    assert codec.encode("123") == [33, 34, 35]  # digits one by one
    assert codec.encode("<|im_end|>") == [2]
    assert codec.special_ids == frozenset(range(17))


def test_sentencepiece_pieces(sentencepiece: HuggingFaceCodec) -> None:
    backend = sentencepiece.tokenizer.backend_tokenizer
    assert backend.encode("hello world").tokens[:3] == ["<bos>", "hello", "▁wor"]
    assert sentencepiece.encode("é", add_special_tokens=False) != sentencepiece.encode("e")
    missing = backend.encode("語", add_special_tokens=False).tokens
    assert missing == ["<0xE8>", "<0xAA>", "<0x9E>"]
    assert sentencepiece.token_text(backend.token_to_id("<0xE8>")) == ("\ufffd", b"\xe8")
    assert sentencepiece.token_text(backend.token_to_id("▁wor")) == (" wor", b" wor")


def test_special_tokens_are_added_and_skipped(sentencepiece: HuggingFaceCodec) -> None:
    ids = sentencepiece.encode("hello")
    assert ids[0] == 2
    assert sentencepiece.decode(ids) == "hello"
    assert sentencepiece.decode(ids, skip_special_tokens=False) == "<bos>hello"
    assert {0, 1, 2, 3, 4, 5} == sentencepiece.special_ids


@pytest.mark.parametrize(
    ("pre", "numbers", "first"),
    [
        ("smollm", ["1", "2", "3", "4"], []),
        ("gpt-2", ["12", "3", "4"], []),
        ("qwen2", ["1", "2", "3", "4"], []),
        ("llama-bpe", ["12", "3", "4"], ["<|im_start|>"]),
        ("tekken", ["1", "2", "3", "4"], ["<|im_start|>"]),
    ],
)
def test_how_text_is_cut_before_the_merges(
    pre: str, numbers: list[str], first: list[str], tmp_path: Path
) -> None:
    TinyGguf("llama", pre=pre).write(tmp_path / "tiny.gguf")
    tokenizer = build_tokenizer(read_gguf(tmp_path / "tiny.gguf"))
    assert tokenizer.encode("1234", add_special_tokens=False).tokens == numbers
    assert tokenizer.encode("hello world").tokens == [*first, "hello", "Ġwor", "l", "d"]
    composed = tokenizer.encode("e\u0301", add_special_tokens=False).tokens
    assert (len(composed) == 2) == (pre == "qwen2")  # NFC makes one letter of two bytes


def wordpiece() -> Any:
    vocab = {"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def test_a_decoder_that_looks_at_neighbours() -> None:
    table = build_token_bytes(wordpiece())
    assert table == [b" [UNK]", b" play", b"ing", b" now"]


def test_a_decoder_that_is_not_known_is_not_guessed() -> None:
    assert renderer_of(None) is None
    assert renderer_of({"type": "CTC"}) is None
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    render = renderer_of({"type": "Sequence", "decoders": [metaspace, strip]})
    assert render is not None
    assert render("▁a▁b") == b" a b"


class PythonTokenizer:
    """A tokenizer written in Python with the vocabulary of SentencePiece."""

    is_fast = False
    all_special_ids = (0,)
    chat_template = None

    def __init__(self, tokens: list[Any]) -> None:
        self.tokens = tokens
        self.added_tokens_decoder: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def get_vocab(self) -> dict[Any, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[Any]:
        return [self.tokens[i] for i in ids]

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [self.tokens.index(character) for character in text]


def test_tokenizers_in_python() -> None:
    pieces = HuggingFaceCodec(PythonTokenizer(["<s>", "▁a", "b", "<0xC3>"]))
    assert pieces.token_bytes_table() == [b"<s>", b" a", b"b", b"\xc3"]
    assert pieces.encode("bb") == [2, 2]
    raw = HuggingFaceCodec(PythonTokenizer([b"a", b"\xe6\x97"]), vocab_rows=4)
    assert raw.token_bytes_table() == [b"a", b"\xe6\x97", b"", b""]
    assert raw.token_text(1) == ("\ufffd", b"\xe6\x97")
    assert raw.token_text(99) == ("", b"")
