"""Which members are in the file of all."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from speedtrain.model.weights import load_facts
from speedtrain.training.member_weights import gather, recorded_members


def saved(run: Path, number: int, progress: float, seconds: float) -> None:
    """What a member saved last, after so many seconds of its own."""
    facts = {
        "network": {},
        "step": 4 + number,
        "images_seen": 640,
        "threads": 1,
        "rollbacks": 0,
        "batch_size": 128,
        "last_weights": number == 2,
        "images": {},
    }
    facts |= {"progress": progress, "phases": {"import": 2.0, "train": seconds - 2.0}}
    folder = run / "members" / str(number)
    folder.mkdir(parents=True)
    metadata = {name: json.dumps(value) for name, value in facts.items()}
    save_file({"w": np.zeros(1, np.float32)}, folder / "weights.safetensors", metadata=metadata)


def test_a_member_is_left_out_if_it_ended_early_without_having_done_its_training(tmp_path: Path) -> None:
    saved(tmp_path, 1, progress=0.99, seconds=50)  # it has done all its epochs
    saved(tmp_path, 2, progress=0.6, seconds=100)  # slower, and at work
    saved(tmp_path, 3, progress=0.3, seconds=40)  # it died
    weights = tmp_path / "weights.safetensors"
    assert gather(tmp_path, [1, 2, 3, 4], weights, {}, {}) == [3, 4], "the fourth has saved nothing"
    members = load_facts(weights)["members"]
    assert [member["number"] for member in members] == [1, 2]
    recorded = recorded_members(tmp_path)
    assert [(recorded[number].steps, recorded[number].last_weights) for number in (1, 2)] == [(5, False), (6, True)]
