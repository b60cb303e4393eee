"""The text of one parameter -> JSON text of the type that the tool's schema asks for.

Whether a whole value is valid against its schema is not decided here.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from vllm_mlx.parsers.notation import PYTHON, word_to_json
from vllm_mlx.parsers.transcode import transcode

_MAX_DEPTH = 16  # nested $ref and anyOf
_TYPE_OF_PYTHON = {
    str: "string", bool: "boolean", int: "integer", float: "number",
    list: "array", dict: "object", type(None): "null",
}  # fmt: skip
_TRUTH = {"true": "true", "false": "false"}
_NULLS = frozenset({"null", "none", "nil"})


def parameter_types(schema: Mapping[str, Any], name: str) -> frozenset[str]:
    """The JSON types a parameter may have; empty if the schema does not say."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return frozenset()
    return _types(properties.get(name), schema, _MAX_DEPTH)


def _types(node: Any, root: Mapping[str, Any], depth: int) -> frozenset[str]:
    if not isinstance(node, Mapping) or depth == 0:
        return frozenset()
    reference = node.get("$ref")
    if isinstance(reference, str):
        return _types(_resolve(reference, root), root, depth - 1)
    given = node.get("type")
    if isinstance(given, str):
        return frozenset({given})
    if isinstance(given, list):
        return frozenset(one for one in given if isinstance(one, str))
    if isinstance(node.get("enum"), list):
        return frozenset(_TYPE_OF_PYTHON.get(type(one), "string") for one in node["enum"])
    if "const" in node:
        return frozenset({_TYPE_OF_PYTHON.get(type(node["const"]), "string")})
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(node.get(key), list):
            found = [_types(one, root, depth - 1) for one in node[key]]
            # a branch that does not say may be anything: then nothing is known
            if key == "allOf" or all(found):
                return frozenset().union(*found)
    return frozenset()


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    node: Any = root
    if not reference.startswith("#/"):
        return None
    for part in reference[2:].split("/"):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def to_json(text: str, types: frozenset[str]) -> str:
    """A whole value as JSON: the first of its types that it fits, else a string.

    Numbers and valid JSON keep their spelling. Without types: what it looks like.
    """
    bare = text.strip()
    if not types and bare.lower() in _NULLS and bare not in ("null", "None"):
        return json.dumps(text, ensure_ascii=False)  # a word, as far as anybody knows
    for kind in ("null", "integer", "number", "boolean", "object", "array"):
        if (not types or kind in types) and (found := _READERS[kind](bare)) is not None:
            return found
    return json.dumps(text, ensure_ascii=False)


def _integer(bare: str) -> str | None:
    word = word_to_json(bare)
    if word is None or word in ("true", "false", "null"):
        return None
    if word.lstrip("-").isdigit():
        return word
    number = float(word)
    return str(int(number)) if number.is_integer() else None


def _number(bare: str) -> str | None:
    word = word_to_json(bare)
    return None if word in ("true", "false", "null") else word


def _boolean(bare: str) -> str | None:
    return _TRUTH.get(bare.lower())


def _null(bare: str) -> str | None:
    return "null" if bare.lower() in _NULLS else None


def _container(bare: str, opener: str) -> str | None:
    return transcode(bare, PYTHON) if bare.startswith(opener) else None


_READERS: Mapping[str, Callable[[str], str | None]] = {
    "null": _null,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": lambda bare: _container(bare, "{"),
    "array": lambda bare: _container(bare, "["),
}
