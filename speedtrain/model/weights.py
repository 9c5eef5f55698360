"""Weights on disk: whole at every instant, and never code."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from speedtrain.errors import UserError
from speedtrain.files import write_atomic


def save_weights(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Saves a state by `write_atomic`, with `facts` (JSON values) in the file's header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    header = {name: json.dumps(value) for name, value in facts.items()}
    write_atomic(path, safetensors.torch.save(tensors, header))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The state and the facts that `save_weights` stored.

    Raises:
        UserError: no such file, or not a whole safetensors file.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _facts(file)  # noqa: SIM118 (not a dict)


def load_facts(path: Path) -> dict[str, object]:
    """The facts alone, from the file's header; raises as `load_weights`."""
    with _opened(path) as file:
        return _facts(file)


def split_by_member(state: Mapping[str, Tensor], members: int) -> list[dict[str, Tensor]]:
    """The state of each member of a model: with several, the names of number i's tensors begin with `members.i.`."""
    if members == 1:
        return [dict(state)]
    parts: list[dict[str, Tensor]] = [{} for _ in range(members)]
    for name, tensor in state.items():
        _, number, rest = name.split(".", 2)
        parts[int(number)][rest] = tensor
    return parts


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        # the library says of a file that may not be read that it is not there
        forbidden = path.exists() and not os.access(path, os.R_OK)
        reason = "no permission to read it" if forbidden else error
        raise UserError(f"{path}: not a readable weights file ({reason})") from error


def _facts(file: Any) -> dict[str, object]:
    return {name: _fact(value) for name, value in (file.metadata() or {}).items() if name != "format"}


def _fact(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:  # another program's header
        return text
