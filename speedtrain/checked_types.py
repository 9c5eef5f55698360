"""Values from outside, converted to the types of a dataclass, or refused in words."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from speedtrain.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def checked_types(kind: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`values` with the defaults of the dataclass `kind` filled in, converted to its types or refused."""
    from jsonargparse import ArgumentError

    typed: dict[str, Any] = {}
    for entry in fields(kind):
        parser = _parser_of(kind, entry.name)
        try:
            given = {entry.name: values[entry.name]} if entry.name in values else {}
            if given == {entry.name: None}:  # jsonargparse takes a null for a value not given, whatever the type
                if type(None) not in get_args(entry.type):
                    raise ArgumentError(None, "null")
                typed[entry.name] = None
            else:
                typed[entry.name] = parser.parse_object(given)[entry.name]
        except ArgumentError:
            raise UserError(
                f"{prefix}{entry.name} must be {_in_words(entry.type)}, got {values.get(entry.name)!r}"
            ) from None
    return typed


@cache  # to make one takes several times as long as to use it
def _parser_of(kind: type, name: str) -> "ArgumentParser":
    """A parser of one field: its error then names the right one in few words."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, None, skip={other.name for other in fields(kind) if other.name != name})
    return parser


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean X?`, or the list of valid names."""
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(valid)}"


def _in_words(kind: Any) -> str:
    """A type in words."""
    simple = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    if kind in simple:
        return simple[kind]
    if get_origin(kind) is Literal:
        return " or ".join(str(value) for value in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind))
    if get_origin(kind) is dict:
        return "a mapping"
    inside = str(get_args(kind))
    example = "[[0, 0], [1, 1]]" if "tuple" in inside else "[{}, {with: sam}]" if "dict" in inside else "[0.5, 1]"
    return f"a list like {example}"
