"""A run on labels of several annotators: what reaches the training, what the result says, and the replay."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from speedtrain.cli import main
from speedtrain.config import resolve
from speedtrain.data import load_data
from speedtrain.run.result import read_result
from speedtrain.training.job import Job
from speedtrain.training.lightning_module import build_training

PINNED = ["--set", "width=8", "--set", "batch_size=128", "--set", "precision=fp32"]


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits whose second and third label are wrong now and then; the third is not always there."""
    digits = load_data("digits", holdout=False).train
    votes = np.repeat(digits.labels[:, None], 3, axis=1)
    generator = np.random.default_rng(0)
    for annotator in (1, 2):
        wrong = generator.random(len(votes)) < 0.3
        votes[wrong, annotator] = generator.integers(0, 10, wrong.sum())
    votes[::3, 2] = -1
    path = tmp_path_factory.mktemp("voted") / "voted.npz"
    np.savez(path, images=digits.images, labels=votes)
    return path


@pytest.mark.usefixtures("warm_processes")
def test_votes_from_the_file_to_the_replay(
    voted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handed: list[np.ndarray] = []
    write = Job.write

    def watched(
        job: Job, folder: Path, images: np.ndarray, labels: np.ndarray, targets: np.ndarray, start: None
    ) -> None:
        handed.append(targets)
        write(job, folder, images, labels, targets, start)

    monkeypatch.setattr(Job, "write", watched)
    run = tmp_path / "run"
    assert main(["--data", str(voted), "--budget", "60", *PINNED, "--set", "max_epochs=4", "--out", str(run)]) == 0
    said = capsys.readouterr()
    data = load_data(voted)
    np.testing.assert_array_equal(handed[0], data.train.targets)
    result = read_result(run / "result.json")
    assert data.annotators is not None
    assert result["annotators"]["noise"] == pytest.approx(data.annotators.noise)
    assert result["annotators"]["labels"] == "separate"
    assert result["expected"] is None
    with np.load(run / "predictions.npz") as stored:
        predicted = stored["predicted"]
    assert data.test.votes is not None
    for share, column in zip(result["agreement_with_annotators"]["each"], data.test.votes.T, strict=True):
        assert share == pytest.approx((predicted == column)[column >= 0].mean())
    assert result["agreement_with_annotators"]["majority"] == result["accuracy"]
    assert "agreement with each annotator: " in said.out
    assert "3 annotators; all agree on" in said.err
    assert "as if" in (run / "report.html").read_text()

    assert main(["replay", "--run", str(run), "--out", str(tmp_path / "again")]) == 0
    assert "bit for bit the same" in capsys.readouterr().out
    with open(run / "clock.csv", newline="") as file:
        assert {row["batch_size"] for row in csv.DictReader(file)} == {"128"}


def test_a_job_carries_targets(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
    targets = np.random.default_rng(0).random((4, 4), np.float32)
    job = Job(resolve(budget=9), ("a", "b", "c", "d"), "", tmp_path)
    for given in (targets, None):
        (tmp_path / "job").mkdir()
        job.write(tmp_path / "job", images, labels, given)
        taken = Job.take(tmp_path / "job")[3]
        assert taken is None if given is None else np.array_equal(taken, targets)


def test_a_batch_has_the_targets_of_its_images() -> None:
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    targets = torch.rand(6, 3)
    config = resolve(budget=9, tricks=[])
    training = build_training(config, images, torch.arange(6) % 3, 3, width=8, precision="fp32", targets=targets)
    chosen = torch.tensor([4, 1, 1])
    assert torch.equal(training.make_batch(chosen).targets, targets[chosen])
