"""`competition.yaml` to begin with, and its JSON schema: both are made from the classes that read it."""

import textwrap
import types
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.judge.competition import FILE, SECTIONS, CompetitionFile, DataSection

EXAMPLES = {
    "name": "Ten classes in ten minutes",
    "description": "Train the best classifier you can within the budget.",
    "data.train": "train.npz",
    "data.secret_test": "secret_test.npz",
}
"""Values of keys that have no default."""


def write_template(folder: Path) -> Path:
    """Writes a commented `competition.yaml`; returns its path.

    Args:
        folder: made if it does not exist.

    Raises:
        UserError: there is one already, or it cannot be written.
    """
    path = folder / FILE
    if path.exists():
        raise UserError(f"{path}: exists; name another folder, or edit it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, template().encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def template() -> str:
    """The content of a `competition.yaml` in which every key has a comment. Keys with a default are commented out."""
    lines = ["# A competition. Paths are relative to this file. Keys after # have the value that is shown.", ""]
    for entry in fields(CompetitionFile):
        lines += _lines(entry.name, entry, "", entry.name)
    for name, kind in SECTIONS.items():
        given = name == "data"
        lines += ["", f"{name}:" if given else f"# {name}:"]
        for entry in fields(kind):
            lines += _lines(f"{name}.{entry.name}", entry, "  " if given else "", entry.name, given)
    lines += ["", "# Several training sets, in place of data; ranks are added up as points:"]
    lines += ["# regimes:"]
    for name in ("clean", "noisy"):
        lines += [f"#   - {{name: {name}, train: {name}.npz, secret_test: secret_test.npz}}"]
    return "\n".join([*lines, ""])


def _lines(full: str, entry: Any, indent: str, name: str, section_given: bool = True) -> list[str]:
    begin = f"{indent}# " if section_given else "#   # "
    lines = textwrap.wrap(entry.metadata["meaning"], 100, initial_indent=begin, subsequent_indent=begin)
    if full in EXAMPLES:
        return [*lines, f"{indent}{name}: {EXAMPLES[full]}"]
    default = "" if entry.default in (None, MISSING) else entry.default
    shown = (
        f"{default:g}" if isinstance(default, float) else str(default).lower() if default in (True, False) else default
    )
    return [*lines, f"{indent}# {name}: {shown}".rstrip() if section_given else f"#   {name}: {shown}".rstrip()]


def schema() -> dict[str, Any]:
    """The JSON schema of `competition.yaml` (draft 2020-12)."""
    properties = _properties(CompetitionFile)
    for name, kind in SECTIONS.items():
        properties[name] = _object(kind)
    kind_of_score = properties["score"]["properties"]["kind"]
    properties["score"] = {"anyOf": [kind_of_score, properties["score"]]}
    regime = _object(DataSection)
    regime["properties"] = {"name": {"type": "string", "pattern": "^[A-Za-z0-9-]+$"}, **regime["properties"]}
    regime["required"] = ["name", *regime["required"]]
    properties["regimes"] = {
        "type": "array",
        "minItems": 2,
        "items": regime,
        "description": "several training sets, in place of data; each rank gives points, which are added up",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "speedtrain competition",
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "oneOf": [{"required": ["data"]}, {"required": ["regimes"]}],
        "additionalProperties": False,
    }


def _object(kind: type) -> dict[str, Any]:
    required = [entry.name for entry in fields(kind) if entry.default is MISSING]
    found = {"type": "object", "properties": _properties(kind), "additionalProperties": False}
    return {**found, "required": required} if required else found


def _properties(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    found = {}
    for entry in fields(kind):
        found[entry.name] = {**_type(hints[entry.name]), "description": entry.metadata["meaning"]}
        if entry.default not in (MISSING, None):
            found[entry.name]["default"] = entry.default
    return found


def _type(hint: Any) -> dict[str, Any]:
    simple = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null"}
    if hint in simple:
        return {"type": simple[hint]}
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) in (Union, types.UnionType):
        return {"anyOf": [_type(part) for part in get_args(hint)]}
    return {"type": "string", "format": "date"}
