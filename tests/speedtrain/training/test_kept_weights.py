import os
from pathlib import Path

import pytest
import torch

from speedtrain.model.weights import load_weights, save_weights
from speedtrain.training.kept_weights import KeptWeights, kept_weights


def save(path: Path, value: float) -> None:
    save_weights(path, {"weight": torch.tensor([value])}, {"step": int(value)})


@pytest.mark.parametrize("count", [1, 3, 12])
def test_instants_are_even_on_a_logarithmic_axis_from_the_first_to_the_budget(count: int, tmp_path: Path) -> None:
    kept, weights = KeptWeights(tmp_path / "snapshots", count, 2.0, 1000.0), tmp_path / "weights.safetensors"
    save(weights, 0)
    for tenth in range(1, 10_000):
        if kept.due(tenth / 10):
            kept.keep(weights, tenth / 10)
    expected = [2.0 * 500 ** (number / count) for number in range(count)]
    assert [seconds for seconds, _ in kept_weights(tmp_path)] == pytest.approx(expected, abs=0.11)


def test_a_step_that_passes_several_instants_keeps_its_weights_once(tmp_path: Path) -> None:
    kept, weights = KeptWeights(tmp_path / "snapshots", 8, 1.0, 256.0), tmp_path / "weights.safetensors"
    for value, seconds in enumerate([0.5, 1.1, 40.0, 41.0, 100.0, 255.0]):
        save(weights, value)
        if kept.due(seconds):
            kept.keep(weights, seconds)
    found = kept_weights(tmp_path)
    assert [seconds for seconds, _ in found] == [1.1, 40.0, 100.0, 255.0]
    assert [load_weights(file)[1]["step"] for _, file in found] == [1, 2, 4, 5]  # later saves left them alone


@pytest.mark.parametrize(("count", "first"), [(0, 1.0), (5, 30.0), (5, 31.0)])
def test_none_are_due_where_none_are_wanted_or_time_is_short(count: int, first: float, tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path / "snapshots", count, first, 30.0)
    assert not any(kept.due(seconds) for seconds in (0, 10, 29, 30, 31))
    assert kept_weights(tmp_path) == []


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no second file system")
def test_where_files_cannot_be_linked_they_are_copied(tmp_path: Path) -> None:
    folder, weights = Path(f"/dev/shm/kept-{os.getpid()}"), tmp_path / "weights.safetensors"
    try:
        save(weights, 7)
        KeptWeights(folder, 2, 1.0, 10.0).keep(weights, 1.5)
        save(weights, 8)
        (file,) = folder.iterdir()
        assert load_weights(file)[1]["step"] == 7
    finally:
        for file in folder.glob("*"):
            file.unlink()
        folder.rmdir()
