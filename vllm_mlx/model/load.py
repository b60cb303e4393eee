"""A local folder as a model and tokenizer in memory, by mlx-lm; on the thread that owns MLX."""

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx.utils import tree_flatten, tree_unflatten

from vllm_mlx.errors import ModelError
from vllm_mlx.model.progress import Progress, no_progress

EVALUATED_BYTES = 128 * 2**20  # weights read and converted at a time: bounds what is held twice
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model that is in memory, and what its files say about it."""

    folder: Path
    model: Any
    tokenizer: Any  # a transformers tokenizer
    config: dict[str, Any]
    generation_config: dict[str, Any]
    model_type: str
    dtype: str  # of activations
    is_quantized: bool  # weights are packed in memory
    weights_bytes: int
    eos_token_ids: tuple[int, ...]
    chat_function: Callable[..., str] | None  # mlx-lm's own template code, where it has some


def runs_on_cpu() -> bool:
    """Whether MLX's default device is the CPU."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def load_checkpoint(
    folder: Path,
    *,
    dtype: str = "auto",
    report: Progress = no_progress,
    trust_remote_code: bool = False,
) -> LoadedCheckpoint:
    """Load every weight of ``folder`` into memory; nothing is fetched from anywhere.

    ``dtype`` ``auto``: on a CPU dense float32 (quantized and 16-bit products are 10 to 100 times
    slower there); elsewhere what the checkpoint has. A named dtype is that of activations and of
    every weight that is not packed; on a CPU packed weights are always unpacked.
    Raises ModelError with one sentence: unknown model_type, weights missing or of a wrong shape.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f"dtype '{dtype}' is not known: auto, {', '.join(DTYPES)}")
    # Replaces the attention that model modules bind by name when they are first imported
    importlib.import_module("vllm_mlx.kernels.attention")
    model, config = _load_lazily(folder, trust_remote_code)
    target = _target_dtype(dtype, config)
    if runs_on_cpu():
        _dequantize(model, target or mx.float32)
    if target is not None:
        _cast(model, target)
    if runs_on_cpu():
        _turn_for_cpu(model)
    _evaluate(model, report)
    tokenizer, chat_function = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    generation_config = read_json(folder / "generation_config.json")
    return LoadedCheckpoint(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        config=config,
        generation_config=generation_config,
        model_type=str(config["model_type"]),
        dtype=_activation_dtype(model),
        is_quantized=any(hasattr(m, "scales") for m in model.modules()),
        weights_bytes=sum(a.nbytes for _, a in _weights(model)),
        eos_token_ids=end_token_ids(config, generation_config, tokenizer),
        chat_function=chat_function,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if the file is absent. Raises ModelError if it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def load_tokenizer(
    folder: Path, *, trust_remote_code: bool = False
) -> tuple[Any, Callable[..., str] | None]:
    """The tokenizer and, for the few models whose prompts mlx-lm writes in code, that code."""
    from mlx_lm import utils

    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        load: Any = utils.load_tokenizer
        wrapper = load(folder, options)
    except Exception as error:  # tokenizers raise anything, down to plain Exception
        raise ModelError(f"{folder}: the tokenizer cannot be loaded: {_one_line(error)}") from error
    return wrapper._tokenizer, wrapper._chat_template


def end_token_ids(
    config: dict[str, Any], generation_config: dict[str, Any], tokenizer: Any
) -> tuple[int, ...]:
    """Every token that ends an answer: of generation_config, config (nested too) and tokenizer."""
    found: list[int] = []
    nested = config.get("text_config") or {}
    for source in (generation_config, config, nested):
        value = source.get("eos_token_id")
        found += value if isinstance(value, list) else [value] if value is not None else []
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(int(token) for token in found))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _load_lazily(folder: Path, trust_remote_code: bool) -> tuple[Any, dict[str, Any]]:
    from mlx_lm.utils import load_model

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: it is not a model folder")
    if "model_type" not in read_json(folder / "config.json"):
        raise ModelError(f"{folder}/config.json does not say which model_type it is")
    try:
        model, config = load_model(folder, lazy=True, trust_remote_code=trust_remote_code)
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no weights (model*.safetensors)") from error
    except Exception as error:  # a model file of mlx-lm may raise anything on a wrong config
        raise ModelError(f"{folder.name} cannot be loaded: {_explain(error, folder)}") from error
    return model, config


def _explain(error: Exception, folder: Path) -> str:
    """mlx-lm's exception as one sentence a person can act on."""
    text = _one_line(error)
    config = read_json(folder / "config.json")
    if found := re.search(r"Model type (\S+) not supported", text):
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and not str(cause.name).startswith("mlx_lm"):
            return f"model_type '{found[1]}' needs the package '{cause.name}'"
        return f"model_type '{found[1]}' is not one that the installed mlx-lm can run"
    if found := re.search(r"Missing (\d+) parameters: (.*)", text):
        return f"{found[1]} weights of a {config['model_type']} are missing: {found[2][:160]}"
    if found := re.search(r"Received (\d+) parameters not in model: (.*)", text):
        return f"{found[1]} weights have no place in a {config['model_type']}: {found[2][:160]}"
    if found := re.search(
        r"Expected shape (.*?) but received shape (.*?) for parameter (\S+)", text
    ):
        return f"weight {found[3]} has shape {found[2]}, where config.json asks for {found[1]}"
    if found := re.search(r"missing \d+ required positional arguments?: (.*)", text):
        return f"config.json lacks {found[1]}"
    if isinstance(error, KeyError):
        return f"config.json lacks {text}"
    if "trust_remote_code" in text:
        return (
            "its architecture is Python code in the folder; set trust_remote_code if you trust it"
        )
    return f"{type(error).__name__}: {text}"


def _declared_dtype(config: dict[str, Any]) -> str | None:
    for source in (config, config.get("text_config") or {}):
        for key in ("torch_dtype", "dtype"):
            if source.get(key) in DTYPES:
                return str(source[key])
    return None


def _target_dtype(dtype: str, config: dict[str, Any]) -> mx.Dtype | None:
    """What floating weights become; None leaves them."""
    if dtype == "auto":
        if runs_on_cpu():
            return mx.float32
        # A converted GGUF keeps exact float32 scales on disk; its config says what to run in
        declared = _declared_dtype(config) if "converted_from" in config else None
        return getattr(mx, declared) if declared else None
    return getattr(mx, dtype)  # type: ignore[no-any-return]


def _weights(model: Any) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(model.parameters())
    return list(flat)


def _cast(model: Any, dtype: mx.Dtype) -> None:
    keeps = getattr(model, "cast_predicate", None)  # weights a model wants in float32

    def cast(path: str, value: mx.array) -> mx.array:
        is_kept = keeps is not None and dtype != mx.float32 and not keeps(path)
        if is_kept or not mx.issubdtype(value.dtype, mx.floating):
            return value
        return value.astype(dtype)

    model.update(tree_unflatten([(path, cast(path, value)) for path, value in _weights(model)]))


def _dense_twin(module: Any) -> Any:
    """The unquantized module whose place a quantized one took, weights not yet set."""
    from mlx_lm.models.mla import MultiLinear, QuantizedMultiLinear
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    with_bias = "bias" in module
    if isinstance(module, QuantizedLinear):
        return Linear(1, 1, bias=with_bias)
    if isinstance(module, QuantizedEmbedding):
        return Embedding(1, 1)
    if isinstance(module, QuantizedSwitchLinear):
        dense: Any = SwitchLinear(1, 1, 1, bias=with_bias)
        return dense
    if isinstance(module, QuantizedMultiLinear):
        multi: Any = MultiLinear(1, 1, 1)
        return multi
    return None


def _dequantize(model: Any, dtype: mx.Dtype) -> None:
    """Replace quantized layers by dense ones. Scales are widened first: products stay exact."""
    replaced = []
    for path, module in model.named_modules():
        if not hasattr(module, "scales") or (dense := _dense_twin(module)) is None:
            continue
        scales, biases = module.scales, getattr(module, "biases", None)
        if mx.issubdtype(scales.dtype, mx.floating):
            scales = scales.astype(mx.float32)
            biases = biases.astype(mx.float32) if biases is not None else None
        dense.weight = _unpack(module, scales, biases).astype(dtype)
        if "bias" in module:
            dense.bias = module.bias
        replaced.append((path, dense))
    if replaced:
        model.update_modules(tree_unflatten(replaced))
        model.eval()


def _unpack(module: Any, scales: mx.array, biases: mx.array | None) -> mx.array:
    settings = {
        "group_size": module.group_size,
        "bits": module.bits,
        "mode": getattr(module, "mode", "affine"),
        "dtype": mx.float32,
    }
    factor = getattr(module, "global_scale", None)
    if factor is None:
        return mx.dequantize(module.weight, scales, biases, **settings)
    if factor.ndim == 0:
        return mx.dequantize(module.weight, scales, biases, global_scale=factor, **settings)
    experts = [
        mx.dequantize(module.weight[e], scales[e], global_scale=factor[e], **settings)
        for e in range(len(factor))
    ]
    return mx.stack(experts)


def _turn_for_cpu(model: Any) -> None:
    """Store the weights of products by input instead of by output; values and shapes stay.

    A layer computes ``x @ weight.T``. Stored this way round, ``weight.T`` is the contiguous one, and a
    BLAS multiplies few rows by it up to a third faster than by a transposed matrix.
    """
    heads = {id(getattr(model, "lm_head", None)), id(_tied_head(model))}
    for _, module in model.named_modules():
        if isinstance(module, Linear) or id(module) in heads:
            weight = module.get("weight")
            if weight is not None and weight.ndim == 2:
                module.weight = mx.contiguous(weight.T).T


def _tied_head(model: Any) -> Any:
    """The embedding that also is the head; None where there is a head of its own."""
    if any(path.endswith("lm_head") for path, _ in model.named_modules()):
        return None
    found = [m for path, m in model.named_modules() if path.endswith("embed_tokens")]
    return found[0] if len(found) == 1 else None


def _evaluate(model: Any, report: Progress) -> None:
    """Read and convert the weights, some at a time."""
    arrays = [value for _, value in _weights(model)]
    total, done, held = sum(a.nbytes for a in arrays), 0, 0
    pending: list[mx.array] = []
    for array in arrays:
        pending.append(array)
        held += array.nbytes
        if held >= EVALUATED_BYTES:
            mx.eval(pending)
            done, held, pending = done + held, 0, []
            report("loading weights", done, total)
    mx.eval(pending)
    report("loading weights", total, total)


def _activation_dtype(model: Any) -> str:
    """The dtype of most floating weights by count of arrays: norms, scales and dense products."""
    counts: dict[str, int] = {}
    for _, array in _weights(model):
        if mx.issubdtype(array.dtype, mx.floating):
            name = str(array.dtype).removeprefix("mlx.core.")
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: counts[name]) if counts else "float32"
