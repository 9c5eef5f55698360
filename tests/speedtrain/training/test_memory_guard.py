"""Memory that is too short for a step: half the batch, half the learning rate, and the same again in a replay."""

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning as L
import pytest
import torch

from speedtrain.network.classifier import Classifier, build_classifier
from speedtrain.network.precision import configure_device
from speedtrain.thread_controller import ThreadController
from speedtrain.training.batch_order import BatchOrder
from speedtrain.training.checkpoint import CheckpointCallback
from speedtrain.training.divergence import DivergenceGuard
from speedtrain.training.lightning_module import Training
from speedtrain.training.memory_guard import MemoryGuard
from speedtrain.training.step_log import StepLog
from timing import Budget, BudgetCallback, RecordedPacer
from tricks import SAM, Batch, Compute, Flip, Trick, WeightAveraging

STEPS, IMAGES, BATCH = 12, 48, 32
without_gpu = pytest.param("cpu")
with_gpu = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


class ShortMemory(Trick):
    """Memory ends in the second gradient of a step, when SAM has moved the weights, for more images than fit."""

    label = "short memory"

    def __init__(self, images: int, after: int) -> None:
        self.images, self.after = images, after
        self.seen: list[list[int]] = []
        self.failed = 0

    def gradient(self, compute: Compute, model: torch.nn.Module) -> Compute:
        def limited(batch: Batch) -> torch.Tensor:
            if batch.step >= self.after and len(batch.images) > self.images:
                self.failed += 1
                if self.failed % 2 == 0:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            else:
                self.seen.append(batch.ids.tolist())
            return compute(batch)

        return limited


def run(
    folder: Path, classifier: Classifier, trick: Trick, device: str, log: StepLog | None = None
) -> tuple[Training, MemoryGuard, list[str]]:
    """A short training with SAM, random flips and averaged weights; and what it said."""
    folder.mkdir()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (IMAGES, 32, 32, 3), generator=generator, dtype=torch.uint8).to(device)
    labels = (torch.arange(IMAGES) % 4).to(device)
    tricks = [trick, SAM(rho=0.2), Flip(probability=0.5), WeightAveraging(decay=0.5, interval=1)]
    training = Training(
        classifier.to(device), images, labels, 4, tricks, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    said: list[str] = []
    order = BatchOrder(IMAGES, BATCH, seed=5, device=torch.device(device))
    divergence = DivergenceGuard(training, tricks)
    memory = MemoryGuard(training, order, divergence, 7, said.append, log.batch_sizes if log else None)
    pacer = RecordedPacer([step / STEPS for step in range(STEPS)])
    clock = BudgetCallback(Budget(600, time.monotonic()), lr_schedule=lambda _: memory.lr_factor, pacer=pacer)
    threads = ThreadController(torch.get_num_threads())
    checkpoint = CheckpointCallback(folder, training, clock, pacer, threads, divergence, log, said.append)
    trainer = L.Trainer(
        accelerator="cpu" if device == "cpu" else "gpu", devices=1, max_epochs=-1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[checkpoint, clock],
    )  # fmt: skip
    trainer.fit(training, order)
    return training, memory, said


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
    return build_classifier("resnet9", 4, 4, 0.125, [], images, 32)


@pytest.mark.parametrize(("fits", "after", "halvings"), [(16, 0, 1), (16, 5, 1), (9, 3, 2)])
def test_half_a_batch_and_half_the_learning_rate(
    tmp_path: Path, classifier: Classifier, fits: int, after: int, halvings: int
) -> None:
    short = ShortMemory(fits, after)
    training, memory, said = run(tmp_path / "run", copy.deepcopy(classifier), short, "cpu")
    assert memory.batch_size == BATCH >> halvings
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2**halvings)
    assert training.num_steps == STEPS
    assert len(said) == halvings
    assert f"step {after}: the GPU's memory is too short for {BATCH} images; on with {BATCH // 2}" in said[0]
    assert StepLog.read(tmp_path / "run/clock.csv", STEPS).batch_sizes == [BATCH] * after + [memory.batch_size] * (
        STEPS - after
    )
    firsts = short.seen[::2]  # SAM sees each batch twice
    assert [sorted(first) for first in firsts] == [sorted(second) for second in short.seen[1::2]]
    epoch = [image for batch in firsts for image in batch][:IMAGES]
    assert sorted(epoch) == list(range(IMAGES))  # none is lost, none comes twice


@pytest.fixture
def as_a_run_computes() -> Iterator[None]:
    """By algorithms that repeat their results, which a GPU does not use unless asked."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    if torch.cuda.is_available():
        configure_device(torch.device("cuda"))
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.usefixtures("as_a_run_computes")
@pytest.mark.parametrize("device", [without_gpu, with_gpu])
def test_a_replay_halves_where_the_run_did_and_gives_the_same_bits(
    tmp_path: Path, classifier: Classifier, device: str
) -> None:
    training, _, _ = run(tmp_path / "run", copy.deepcopy(classifier), ShortMemory(9, 3), device)
    log = StepLog.read(tmp_path / "run/clock.csv", STEPS)
    enough = ShortMemory(10**9, 0)
    again, memory, _ = run(tmp_path / "again", copy.deepcopy(classifier), enough, device, log)
    assert memory.batch_size == 8
    assert_same_bits(again, training)


def assert_same_bits(one: Training, other: Training) -> None:
    states: Sequence[dict[str, torch.Tensor]] = [training.classifier.state_dict() for training in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_no_batch_is_too_small_for_batch_norm(tmp_path: Path, classifier: Classifier) -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(tmp_path / "run", copy.deepcopy(classifier), ShortMemory(4, 0), "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_whose_memory_ends(tmp_path: Path) -> None:
    """A real one, with a part of its memory: the planner halves too. Width 16 takes 350 MiB for 512 images."""
    from speedtrain.config import resolve
    from speedtrain.training.planner import make_plan

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(240 * 2**20 / total)
    try:
        images = torch.randint(0, 256, (1000, 32, 32, 3), dtype=torch.uint8, device="cuda")
        labels = torch.arange(1000, device="cuda") % 4
        plan = make_plan(resolve(recipe="auto", budget=10, device="cuda"), images, labels, 4, 10.0)
        assert plan.batch_size < 512
        assert plan.images_per_second > 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
