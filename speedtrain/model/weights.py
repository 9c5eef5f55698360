"""Weights on disk: whole at every instant, and never code."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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
    with _told(path):
        content = path.read_bytes()  # at once: `safe_open` opens it again for torch, and a run may replace it meanwhile
        state = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return state, _facts(header.get("__metadata__"))


def load_facts(path: Path) -> dict[str, object]:
    """The facts alone, from the file's header; raises as `load_weights`."""
    with _told(path), safe_open(path, framework="numpy") as file:
        return _facts(file.metadata())


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
def _told(path: Path) -> Iterator[None]:
    """Turns the errors of reading a weights file into words."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # the library says of a file that may not be read that it is not there
        forbidden = path.exists() and not os.access(path, os.R_OK)
        reason = "no permission to read it" if forbidden else getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a readable weights file ({reason})") from error


def _facts(metadata: Mapping[str, str] | None) -> dict[str, object]:
    return {name: _fact(value) for name, value in (metadata or {}).items() if name != "format"}


def _fact(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:  # another program's header
        return text
