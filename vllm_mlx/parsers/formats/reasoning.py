"""Every way to mark thinking."""

# ruff: noqa: RUF001  (these families write a full-width bar)

from vllm_mlx.parsers.formats.channels import HARMONY, MUSE
from vllm_mlx.parsers.formats.description import ReasoningFormat
from vllm_mlx.parsers.formats.regions import DSML

_BOXES = ("<|begin_of_box|>", "<|end_of_box|>")
_DEEPSEEK_SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>")
_KIMI_SECTION = ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>")


def _think(names: tuple[str, ...], families: str, wire: str, **more: object) -> ReasoningFormat:
    return ReasoningFormat(
        names=names,
        families=families,
        wire=wire,
        opens=("<think>",),
        closes=("</think>",),
        **more,  # type: ignore[arg-type]
    )


REASONING_FORMATS = (
    _think(
        ("qwen3", "nemotron", "minimax_m2", "granite4"),
        "Qwen3, Nemotron 3, MiniMax M2, most others",
        "`<think>`...`</think>`; the prompt may have opened it; no tags: content",
    ),
    _think(
        ("deepseek_r1",),
        "DeepSeek R1, V3.1 and distillations",
        "the same, begun by the prompt unless it says otherwise; a section of tool calls ends it",
        assumed=True,
        until=_DEEPSEEK_SECTION,
    ),
    _think(
        ("deepseek_v4", "deepseek_v32"),
        "DeepSeek V3.2, V4",
        "as deepseek_r1; a DSML tool marker ends the thinking too",
        assumed=True,
        until=(*DSML.opens, DSML.call.open),
    ),
    _think(
        ("glm4", "glm45"),
        "GLM-4.1V to 5",
        "`<think>`; `<|begin_of_box|>` wrappers are dropped from the content",
        noise=_BOXES,
    ),
    _think(("poolside_v1", "laguna"), "Poolside Laguna", "as qwen3"),
    _think(("step3p5", "step"), "Step 3.5, 3.7", "as qwen3, begun by the prompt", assumed=True),
    _think(
        ("kimi_k2",),
        "Kimi K2 Thinking, K2.5",
        "as qwen3; a section of tool calls ends the thinking too",
        until=_KIMI_SECTION,
    ),
    ReasoningFormat(
        names=("mistral",),
        families="Magistral, Ministral 3",
        wire="`[THINK]`...`[/THINK]`",
        opens=("[THINK]",),
        closes=("[/THINK]",),
    ),
    ReasoningFormat(
        names=("gpt_oss", "harmony"),
        families="gpt-oss",
        wire="`<|channel|>`analysis`<|message|>`...; final and commentary are content",
        channels=HARMONY,
    ),
    ReasoningFormat(
        names=("gemma4",),
        families="Gemma 4",
        wire="`<|channel>`thought ...`<channel|>`, again and again",
        opens=("<|channel>thought\n", "<|channel>thought"),
        closes=("<channel|>",),
        repeats=True,
    ),
    ReasoningFormat(
        names=("longcat",),
        families="LongCat Flash Thinking",
        wire="`<longcat_think>`...`</longcat_think>`",
        opens=("<longcat_think>",),
        closes=("</longcat_think>",),
    ),
    ReasoningFormat(
        names=("kimi_k3",),
        families="Kimi K3",
        wire="`<|open|>think<|sep|>`...`<|close|>think<|sep|>`",
        opens=("<|open|>think<|sep|>",),
        closes=("<|close|>think<|sep|>",),
        noise=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    ),
    ReasoningFormat(
        names=("muse", "muse_spark"),
        families="Muse Spark, Muse Glimmer",
        wire="to=self`<|message|>`...`<|eom|>`",
        channels=MUSE,
    ),
    ReasoningFormat(
        names=("minimax_m3",),
        families="MiniMax M3",
        wire="`<mm:think>`...`</mm:think>`",
        opens=("<mm:think>",),
        closes=("</mm:think>",),
    ),
    ReasoningFormat(
        names=("seed_oss",),
        families="Seed-OSS",
        wire="`<seed:think>`...`</seed:think>`",
        opens=("<seed:think>",),
        closes=("</seed:think>",),
    ),
    ReasoningFormat(
        names=("command", "cohere"),
        families="Command A Reasoning, North",
        wire="`<|START_THINKING|>`...`<|END_THINKING|>`",
        opens=("<|START_THINKING|>",),
        closes=("<|END_THINKING|>",),
        noise=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    ReasoningFormat(
        names=("apriel",),
        families="Apriel 1.5, 1.6",
        wire="thinking up to `[BEGIN FINAL RESPONSE]`",
        opens=("Here are my reasoning steps:",),
        closes=("[BEGIN FINAL RESPONSE]",),
        noise=("[END FINAL RESPONSE]",),
    ),
    ReasoningFormat(
        names=("hunyuan_v3",),
        families="Hunyuan 3",
        wire="`<think:opensource>`...`</think:opensource>`",
        opens=("<think:opensource>",),
        closes=("</think:opensource>",),
    ),
)
