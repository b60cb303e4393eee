"""Which fields of a body does its type not know? The type itself is the list; tags are followed."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec.inspect as inspect
from msgspec import Struct

MOST_NAMED = 32


class Shape(Struct):
    """Names an object may have, and the shapes below them; ``by_tag`` where a tag chooses."""

    names: frozenset[str] = frozenset()
    below: dict[str, "Shape"] = {}
    tag_field: str | None = None
    by_tag: dict[str, "Shape"] = {}


# Their members are options of the transport: one that is not known cannot change the answer.
OPAQUE = frozenset({"stream_options"})


def shape_of(type_: Any) -> Shape | None:
    """The shape of a Struct, or of the Structs in a list or union; None where any field goes."""
    return _shape(inspect.type_info(type_))


def _shape(info: inspect.Type) -> Shape | None:
    match info:
        case inspect.Metadata():
            return _shape(info.type)
        case inspect.ListType():
            return _shape(info.item_type)
        case inspect.UnionType():
            found = [shape for member in info.types if (shape := _shape(member)) is not None]
            return _united(found)
        case inspect.StructType():
            return _struct(info)
        case _:
            return None


def _struct(info: inspect.StructType) -> Shape:
    names = {field.encode_name for field in info.fields}
    below = {
        field.encode_name: shape
        for field in info.fields
        if field.encode_name not in OPAQUE and (shape := _shape(field.type)) is not None
    }
    if info.tag_field is None:
        return Shape(frozenset(names), below)
    own = Shape(frozenset(names | {info.tag_field}), below)
    return Shape(tag_field=info.tag_field, by_tag={str(info.tag): own})


def _united(shapes: list[Shape]) -> Shape | None:
    if not shapes or shapes[0].tag_field is None:
        return shapes[0] if shapes else None
    tagged = {tag: shape for union in shapes for tag, shape in union.by_tag.items()}
    return Shape(tag_field=shapes[0].tag_field, by_tag=tagged)


def find_unknown(value: Any, shape: Shape) -> list[str]:
    """Paths such as ``top_a`` or ``messages[0].foo``, at most MOST_NAMED. A null is no field."""
    found: list[str] = []
    for path in _unknown(value, shape, ""):
        found.append(path)
        if len(found) == MOST_NAMED:
            break
    return found


def _unknown(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unknown(item, shape, f"{path}[{i}]")
    elif isinstance(value, Mapping):
        yield from _unknown_members(value, shape, path)


def _unknown_members(value: Mapping[str, Any], shape: Shape, path: str) -> Iterator[str]:
    if shape.tag_field is not None:
        chosen = shape.by_tag.get(str(value.get(shape.tag_field)))
        if chosen is None:
            return
        shape = chosen
    for name, member in value.items():
        here = f"{path}.{name}" if path else name
        if name not in shape.names:
            if member is not None:
                yield here
        elif name in shape.below:
            yield from _unknown(member, shape.below[name], here)
