"""The weights of several members → one file. Needs no torch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.files import write_atomic
from speedtrain.starting_point import WEIGHTS
from speedtrain.training.step_log import Recorded

FOLDER = "members"
"""In a run's directory: a folder for each member, called 1, 2, …, like that of a run."""
LEFT_BEHIND = 0.8
"""A member is left out that has saved its last before this share of the time of the others, without having come so far
in its training: it died, or could not save, and its learning rate is still high."""
SUMS = ("step", "images_seen", "threads", "rollbacks")
"""Facts of the members that add up."""
OWN = ("number", "network", *SUMS, "progress", "batch_size", "last_weights", "phases")
"""Facts that the file keeps of each member."""

Part = tuple[dict[str, Any], dict[str, np.ndarray]]
"""What a member saved: facts, with its number, and tensors."""


def gather(
    run: Path, numbers: Iterable[int], weights: Path, facts: Mapping[str, Any], phases: Mapping[str, float]
) -> list[int]:
    """Writes what the members saved last to one file, of which an old content is replaced.

    A member that ended far before the others without being done, such as one that died, is left out.

    Args:
        run: the directory in which the members' folders are.
        numbers: of the members.
        weights: the file to write; not where no member has saved anything.
        facts: JSON values to store with the weights, beside those of the members.
        phases: of the process that leads.

    Returns:
        The numbers of the members that were left out.

    Raises:
        OSError: it could not be written.
    """
    parts = [read_member(run / FOLDER / str(number) / WEIGHTS, number) for number in numbers]
    saved = [part for part in parts if part is not None]
    seconds = [sum(facts["phases"].values()) for facts, _ in saved]
    longest = max(seconds, default=0.0) or 1.0
    shares = [max(facts["progress"], own / longest) for (facts, _), own in zip(saved, seconds, strict=True)]
    taken = [part for part, share in zip(saved, shares, strict=True) if share >= LEFT_BEHIND * max(shares)]
    if taken:
        write_atomic(weights, _one_file(taken, facts, phases))
    return sorted(set(numbers) - {facts["number"] for facts, _ in taken})


def _one_file(parts: Sequence[Part], facts: Mapping[str, Any], phases: Mapping[str, float]) -> bytes:
    from safetensors.numpy import save

    first = parts[0][0]
    header: dict[str, Any] = {
        **facts,
        **{key: sum(its[key] for its, _ in parts) for key in SUMS},
        "progress": sum(its["progress"] for its, _ in parts) / len(parts),
        "batch_size": first["batch_size"],
        "phases": phases,
        "images": first["images"],
        "members": [{key: its[key] for key in OWN} for its, _ in parts],
    }
    several = len(parts) > 1
    tensors = {
        f"{FOLDER}.{place}.{name}" if several else name: tensor
        for place, (_, state) in enumerate(parts)
        for name, tensor in state.items()
    }
    return save(tensors, {name: json.dumps(value) for name, value in header.items()})


def read_member(path: Path, number: int) -> Part | None:
    """What a member saved last; None where nothing is saved yet."""
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(path, framework="numpy") as file:
        facts = {name: json.loads(value) for name, value in file.metadata().items() if name != "format"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return {**facts, "number": number}, tensors


def recorded_members(run: Path) -> dict[int, Recorded]:
    """Of a run that is to be replayed: the number of a member → what its replay follows."""
    from safetensors import safe_open

    with safe_open(run / WEIGHTS, framework="numpy") as file:
        members = json.loads(file.metadata()["members"])
    return {each["number"]: Recorded.of(run / FOLDER / str(each["number"]) / "clock.csv", each) for each in members}
