"""Why a description does not fit, in the words of the file that it came from: the place, what came, what is wanted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

WORDS = {
    "object": "a table", "array": "a list", "str": "text", "int": "a whole number", "float": "a number",
    "bool": "true or false", "null": "nothing",
}  # fmt: skip
"""What TOML and its readers call msgspec's types."""


def explain(error: msgspec.ValidationError, fields: Mapping[str, Any], kind: type[msgspec.Struct]) -> str:
    """Make a sentence of an error that `msgspec.convert(fields, kind)` raised.

    Such as `layer 2 (conv): filters is -8; wanted is int >= 1` or
    `training: there is no key 'epoch'; did you mean epochs? There are epochs, batch_size, …`.
    """
    problem, _, path = str(error).partition(" - at `$")
    value: Any = fields
    wanted: inspect.Type = inspect.type_info(kind)
    place, key = "", ""
    for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        wanted = _inside(wanted, value, name)
        if name:
            place, key = _joined(place, key), name
            value = value.get(name) if isinstance(value, Mapping) else None
        else:
            value = value[int(number)] if isinstance(value, Sequence) else None
            layer = _layer(place, key, int(number), value)
            place, key = (layer, "") if layer else (place, f"{key}[{number}]")
    return _sentence(problem, place, key, value, wanted)


def _sentence(problem: str, place: str, key: str, value: Any, wanted: inspect.Type) -> str:
    """The sentence about a value, found under `key` at `place`; both may be empty."""
    choices = list(_choices(wanted))
    whole = _joined(place, key)
    start = f"{whole}: " if whole else ""
    if unknown := re.search(r"unknown field `(.*?)`", problem):
        keys = _keys(wanted, value)
        return f"{start}there is no key {unknown[1]!r}; {_meant(unknown[1], keys)}there are {', '.join(keys)}"
    if missing := re.search(r"missing required field `(.*?)`", problem):
        among = f"; there are {', '.join(choices)}" if choices else ""
        return f"{start}the key {missing[1]!r} is missing{among}"
    start = f"{place}: " if place else ""
    if problem.startswith("Invalid"):
        return f"{start}{key} is {value!r}; {_meant(value, choices)}there are {', '.join(choices)}"
    if expected := re.match(r"Expected `(.*?)`(.*)", problem):
        needs = (
            re.sub(r"\w+", lambda word: WORDS.get(word[0], word[0]), expected[1]) + expected[2].partition(", got")[0]
        )
        needs = needs.replace("`", "").strip()
        return f"{start}{key} is {value!r}; wanted is {needs}" if key else f"{start}{value!r}; wanted is {needs}"
    return f"{whole}: {problem}" if whole else problem


def _layer(place: str, key: str, index: int, value: Any) -> str:
    """What a layer is called in errors, such as `layer 4 (conv)`, or `layer 4, its 1 (conv)`; empty for other items."""
    if key != "layers":
        return ""
    outer = re.match(r"layer \d+(, its \d+)*", place)
    number = f"{outer[0]}, its {index + 1}" if outer else f"layer {index + 1}"
    tag = value.get("layer") if isinstance(value, Mapping) else None
    return f"{number} ({tag})" if isinstance(tag, str) else number


def _joined(place: str, key: str) -> str:
    """Keys in tables have a dot between them; keys of a layer do not hang on its name."""
    if not place or not key:
        return place or key
    return f"{place}, {key}" if place.startswith("layer ") else f"{place}.{key}"


def _inside(wanted: inspect.Type, value: Any, name: str) -> inspect.Type:
    """What is wanted one step farther: of the key `name`, or of an item where it is empty."""
    if not name:
        return next((one.item_type for one in _alternatives(wanted) if isinstance(one, inspect.VarTupleType)), wanted)
    structs = [one for one in _alternatives(wanted) if isinstance(one, inspect.StructType)]
    if structs and name == structs[0].tag_field:
        return wanted  # the key that tells them apart
    for struct in _fitting(structs, value):
        for field in struct.fields:
            if field.encode_name == name:
                return field.type
    return wanted


def _keys(wanted: inspect.Type, value: Any) -> list[str]:
    """Keys of the table that stands where the error is."""
    structs = [one for one in _alternatives(wanted) if isinstance(one, inspect.StructType)]
    return list(dict.fromkeys(field.encode_name for struct in _fitting(structs, value) for field in struct.fields))


def _choices(wanted: inspect.Type) -> Iterable[str]:
    """Values, or kinds of tables, among which there is a choice."""
    for one in _alternatives(wanted):
        if isinstance(one, inspect.LiteralType):
            yield from map(str, one.values)
        if isinstance(one, inspect.StructType) and one.tag is not None:
            yield str(one.tag)


def _alternatives(wanted: inspect.Type) -> Sequence[inspect.Type]:
    return wanted.types if isinstance(wanted, inspect.UnionType) else (wanted,)


def _fitting(structs: Sequence[inspect.StructType], value: Any) -> Sequence[inspect.StructType]:
    """Of the tables that may stand there, the one that the value says it is; all where it does not say."""
    if not isinstance(value, Mapping):
        return structs
    return [one for one in structs if one.tag_field is None or value.get(one.tag_field) == one.tag] or structs


def _meant(text: Any, candidates: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(text), candidates, n=1)
    return f"did you mean {near[0]}? " if near else ""
