"""The training step under Lightning, against plain PyTorch: precision, ranks, order, and blow-ups."""

import copy
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedtrain.model.weights import load_weights
from speedtrain.network.classifier import Classifier
from speedtrain.thread_controller import ThreadController
from speedtrain.training.averaged_or_last import LEAST_STEPS
from speedtrain.training.batch_order import BatchOrder
from speedtrain.training.checkpoint import CheckpointCallback
from speedtrain.training.divergence import DivergenceGuard
from speedtrain.training.lightning_module import Training
from speedtrain.training.loss_scale import LossScale
from speedtrain.training.step_log import Recorded, StepLog
from timing import Budget, BudgetCallback, RecordedPacer
from tricks import SAM, GradientCentralization, State, Trick, WeightAveraging

CPU = torch.device("cpu")
HYPERPARAMETERS = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


def small_classifier(norm: bool = True) -> Classifier:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU()]
    return Classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)))


def some_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (48, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 4, (48,), generator=generator)


def fit(training: Training, steps: int, batch_size: int = 16, **options: object) -> None:
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=-1, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(training, BatchOrder(training.num_images, batch_size, seed=5, device=CPU))


def by_hand(classifier: Classifier, steps: int, rho: float, precision: torch.dtype | None = None) -> Classifier:
    """SAM (Foret et al., algorithm 1) with SGD in plain PyTorch, no line of it ours."""
    images, labels = some_data()
    model = copy.deepcopy(classifier)
    model.measure(images)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(5)
    order = torch.cat([torch.randperm(48, generator=generator) for _ in range(steps)])
    mean, std = model.mean, model.std

    def loss_on(picked: Tensor) -> Tensor:
        x = ((images[picked].float() / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
            logits = model.network(x)
        return F.cross_entropy(logits.float(), labels[picked])

    for step in range(steps):
        picked = order[16 * step : 16 * step + 16]
        optimizer.zero_grad()
        loss_on(picked).backward()
        if rho:
            kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
            start = [p.detach().clone() for p in model.parameters()]
            length = sum(p.grad.square().sum() for p in model.parameters()) ** 0.5
            with torch.no_grad():
                for p in model.parameters():
                    p += rho * p.grad / length
            optimizer.zero_grad()
            loss_on(picked).backward()
            with torch.no_grad():
                for p, value in zip(model.parameters(), start, strict=True):
                    p.copy_(value)
                for name, buffer in model.named_buffers():
                    buffer.copy_(kept[name])
        optimizer.step()
    return model


def trained(tricks: list[Trick], steps: int, precision: str = "fp32") -> Training:
    images, labels = some_data()
    classifier = small_classifier()
    classifier.measure(images)
    training = Training(classifier, images, labels, 4, tricks, **HYPERPARAMETERS, precision=precision)
    fit(training, steps)
    return training


def assert_same(ours: nn.Module, theirs: nn.Module, tolerance: float) -> None:
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("rho", [0.0, 0.2])
def test_a_step_is_sgd_and_with_sam_it_is_sam(rho: float) -> None:
    tricks: list[Trick] = [SAM(rho=rho)] if rho else []
    ours = trained(tricks, 6).classifier
    assert_same(ours, by_hand(small_classifier(), 6, rho), 1e-6)  # running statistics are in the state too


def test_sam_under_bf16_autocast() -> None:
    ours = trained([SAM(rho=0.2)], 6, "bf16").classifier
    assert_same(ours, by_hand(small_classifier(), 6, 0.2, torch.bfloat16), 1e-6)


def test_sam_with_fp16_loss_scaling_gives_the_same_update() -> None:
    """The scale is a power of two and is taken out after each of SAM's passes, so it changes no bit."""
    images, labels = some_data()
    results = []
    for scaled in (False, True):
        classifier = small_classifier()
        classifier.measure(images)
        training = Training(classifier, images, labels, 4, [SAM(rho=0.2)], **HYPERPARAMETERS)
        training.loss_scale = LossScale(scaled)
        fit(training, 6)
        results.append(classifier)
    assert_same(results[0], results[1], 0)


def test_an_overflow_skips_the_step_halves_the_scale_and_goes_on() -> None:
    images, labels = some_data()
    classifier = small_classifier()
    classifier.measure(images)
    training = Training(classifier, images, labels, 4, [], **HYPERPARAMETERS)
    training.loss_scale = LossScale(True)
    training.loss_scale.scale = 2.0**200  # the scaled loss is infinite until the scale has come down
    before = copy.deepcopy(classifier.network.state_dict())
    weights_at: list[torch.Tensor] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            weights_at.append(classifier.network[0].weight.detach().clone())

    fit(training, 1, callbacks=[Watch()])  # one step that the optimizer takes
    skipped = training.num_steps - 1
    assert skipped >= 70  # down from 2²⁰⁰ to what fp32 can hold
    assert training.loss_scale.scale == 2.0 ** (200 - skipped)
    assert all(torch.equal(weights, before["0.weight"]) for weights in weights_at[:-1])
    assert not torch.equal(weights_at[-1], before["0.weight"])
    assert all(value.isfinite().all() for value in classifier.parameters())


def test_the_loss_scale_grows_after_enough_good_steps() -> None:
    scale = LossScale(True)
    first = scale.scale
    weights = torch.zeros(2)
    for _ in range(LossScale.GROW_AFTER):
        weights.grad = torch.ones(2)
        scale.unscale([weights])
        assert scale.may_step()
    assert scale.scale == 2 * first
    weights.grad = torch.tensor([1.0, torch.inf])
    scale.unscale([weights])
    weights.grad = torch.ones(2)
    scale.unscale([weights])  # SAM's second pass must not make up for its first
    assert not scale.may_step()
    assert scale.scale == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sam_under_amp_on_a_gpu_follows_fp32(precision: str) -> None:
    images, labels = some_data()
    results = []
    for name in ("fp32", precision):
        classifier = small_classifier()
        classifier.measure(images)
        classifier.cuda()
        training = Training(
            classifier, images.cuda(), labels.cuda(), 4, [SAM(rho=0.2)], **HYPERPARAMETERS, precision=name
        )
        trainer = L.Trainer(
            accelerator="gpu", devices=1, max_epochs=-1, max_steps=6, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(training, BatchOrder(48, 16, seed=5, device=torch.device("cuda")))
        results.append(classifier.cpu())
    assert_same(results[1], results[0], 0.02)


def test_two_ranks_make_the_step_of_one(tmp_path: Path) -> None:
    """SAM and gradient centralization under Lightning's DDP, two gloo processes, against one process with the
    whole batch. The network has no batch norm, whose statistics are each rank's own."""
    script = tmp_path / "ranks.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import lightning as L, torch
        from lightning.pytorch.strategies import DDPStrategy
        from test_lightning_module import *

        rank = int(os.environ.get("LOCAL_RANK", 0))
        images, labels = some_data()
        classifier = small_classifier(norm=False)
        classifier.measure(images)
        training = Training(classifier, images, labels, 4, [SAM(rho=0.2), GradientCentralization()], **HYPERPARAMETERS)
        trainer = L.Trainer(accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"),
            max_epochs=-1, max_steps=6, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False)
        trainer.fit(training, BatchOrder(48, 16, seed=5, device=CPU, rank=rank, world_size=2))
        torch.save(classifier.state_dict(), f"{tmp_path}/rank{{rank}}.pt")
        """)
    )
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path, timeout=200, capture_output=True)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    images, labels = some_data()
    alone = small_classifier(norm=False)
    alone.measure(images)
    fit(Training(alone, images, labels, 4, [SAM(rho=0.2), GradientCentralization()], **HYPERPARAMETERS), 6)
    for name, value in alone.state_dict().items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], value, rtol=0, atol=1e-6)


def take(order: BatchOrder, batches: int) -> list[list[int]]:
    iterator = iter(order)
    return [next(iterator).tolist() for _ in range(batches)]


def flat(batches: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def test_every_epoch_shows_every_image_once() -> None:
    seen = flat(take(BatchOrder(10, 4, seed=0, device=CPU), 5))
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_fewer_images_than_a_batch_just_work() -> None:
    batches = take(BatchOrder(3, 8, seed=0, device=CPU), 3)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert sorted(flat(batches)) == sorted(8 * [0, 1, 2])


def test_ranks_share_a_batch() -> None:
    whole = take(BatchOrder(10, 6, seed=0, device=CPU), 4)
    parts = [take(BatchOrder(10, 6, seed=0, device=CPU, rank=rank, world_size=2), 4) for rank in (0, 1)]
    for together, *halves in zip(whole, *parts, strict=True):
        assert sorted(together) == sorted(flat(halves))


class Spoil(Trick):
    """Makes one step's loss infinite."""

    def __init__(self, at: int) -> None:
        self.at = at

    def gradient(self, compute: Callable, model: nn.Module) -> Callable:
        def spoiled(batch: object) -> Tensor:
            loss = compute(batch)
            if batch.step == self.at:
                for parameter in model.parameters():
                    parameter.grad.fill_(torch.nan)
                return loss * torch.inf
            return loss

        return spoiled


def kept_training(
    run: Path, tricks: list[Trick], steps: int, seconds: float = 600.0, replay: StepLog | None = None
) -> tuple[Training, CheckpointCallback, list[str], list[L.Callback]]:
    """A training with a checkpoint whose clock is a record of so many steps, and what the checkpoint says."""
    images, labels = some_data()
    classifier = small_classifier()
    classifier.measure(images)
    training = Training(classifier, images, labels, 4, tricks, **HYPERPARAMETERS)
    pacer = RecordedPacer([step / steps for step in range(steps)])
    divergence = DivergenceGuard(training, tricks)
    budget = Budget(seconds, time.monotonic())
    clock = BudgetCallback(budget, lr_schedule=lambda progress: divergence.lr_factor, pacer=pacer)
    said: list[str] = []
    checkpoint = CheckpointCallback(
        run, training, clock, pacer, ThreadController(torch.get_num_threads()), divergence, replay, said.append
    )
    return training, checkpoint, said, [checkpoint, clock]


def test_a_full_disk_is_said_once_and_keeps_the_last_whole_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process's limit on file size stands in for the end of the disk: both fail a write half-way."""
    monkeypatch.setattr("speedtrain.training.checkpoint.FIRST_SAVE", 0.0)
    monkeypatch.setattr("speedtrain.training.checkpoint.SAVE_EVERY", 0.0)
    monkeypatch.setattr("speedtrain.training.checkpoint.SAVE_SHARE", 1e9)
    training, _, said, callbacks = kept_training(tmp_path, [], 40)
    saved_before: dict[str, object] = {}

    class Disk(L.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            if training.num_steps == 20:
                saved_before.update(load_weights(tmp_path / "weights.safetensors")[1])
                resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
            if training.num_steps == 30:
                assert load_weights(tmp_path / "weights.safetensors")[1] == saved_before
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    try:
        fit(training, -1, callbacks=[Disk(), *callbacks])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(said) == 1
    assert "could not save" in said[0]
    assert saved_before["step"] == 20
    assert load_weights(tmp_path / "weights.safetensors")[1]["step"] == 40
    record = StepLog.read(tmp_path / "clock.csv", 40)
    assert record.progress == [step / 40 for step in range(40)]  # nothing lost, nothing twice


def test_a_loss_that_blows_up_goes_back_halves_the_rate_and_goes_on(tmp_path: Path) -> None:
    training, checkpoint, said, callbacks = kept_training(tmp_path, [Spoil(at=20)], 40)
    classifier = training.classifier
    fit(training, -1, callbacks=callbacks)
    assert len(said) == 1
    assert "step 21" in said[0]
    assert "learning rate halved" in said[0]
    assert training.num_steps == 40
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert all(value.isfinite().all() for value in classifier.state_dict().values())
    assert checkpoint.divergence.lr_factor == 0.5


def test_a_blow_up_before_the_first_save_goes_back_to_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speedtrain.training.checkpoint.REPORT_EVERY", 0.0)
    training, checkpoint, said, callbacks = kept_training(tmp_path, [Spoil(at=2)], 10)
    fit(training, -1, callbacks=callbacks)
    assert "back to the weights of step 0" in said[0]
    assert training.num_steps == 10
    assert load_weights(tmp_path / "weights.safetensors")[1]["rollbacks"] == checkpoint.divergence.rollbacks == 1


def test_a_blow_up_in_the_last_step_keeps_the_averaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speedtrain.training.checkpoint.FIRST_SAVE", 0.0)
    monkeypatch.setattr("speedtrain.training.checkpoint.SAVE_EVERY", 0.0)
    monkeypatch.setattr("speedtrain.training.checkpoint.SAVE_SHARE", 1e9)
    training, _, said, callbacks = kept_training(tmp_path, [Spoil(at=39), WeightAveraging(interval=1)], 40)
    fit(training, -1, callbacks=callbacks)
    assert len(said) == 1
    saved, facts = load_weights(tmp_path / "weights.safetensors")
    assert facts["step"] == 40
    assert all(value.isfinite().all() for value in saved.values())
    assert not torch.equal(saved["network.0.weight"], training.classifier.network[0].weight)


class Stale(Trick):
    """An average that training has long left behind: it gives every image the same answer."""

    def weights(self, state: State, step: int) -> State:
        return {name: tensor.clone().zero_() if "weight" in name else tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("trick", "steps", "seconds", "kept"),
    [
        (Stale(), LEAST_STEPS, 600.0, "last"),
        (Stale(), LEAST_STEPS - 1, 600.0, "averaged"),
        (Stale(), LEAST_STEPS, 0.01, "averaged"),  # no time is left to compare
        (WeightAveraging(), 250, 600.0, "averaged"),
    ],
)
def test_of_averaged_and_last_weights_those_are_kept_that_know_the_training_images(
    tmp_path: Path, trick: Trick, steps: int, seconds: float, kept: str
) -> None:
    training, _, said, callbacks = kept_training(tmp_path, [trick], steps, seconds=seconds)
    fit(training, -1, callbacks=callbacks)
    saved, facts = load_weights(tmp_path / "weights.safetensors")
    last = training.classifier.state_dict()
    assert all(torch.equal(saved[name], last[name]) for name in last) == (kept == "last")
    assert facts["last_weights"] == (kept == "last")
    assert ["last ones are kept" in line for line in said] == [True] * (kept == "last")


@pytest.mark.parametrize(("trick", "last_weights"), [(Stale(), False), (WeightAveraging(), True)])
def test_a_replay_keeps_what_the_run_kept(tmp_path: Path, trick: Trick, last_weights: bool) -> None:
    """Also of a run that was killed after its last save, or is of a version that did not compare."""
    steps = LEAST_STEPS
    rows = [f"{step + 1},{step / steps},1,0,16\n" for step in range(steps)]
    (tmp_path / "recorded.csv").write_text("step,progress,threads,snapshot,batch_size\n" + "".join(rows))
    log = StepLog.read(*Recorded(tmp_path / "recorded.csv", steps, last_weights))
    training, _, said, callbacks = kept_training(tmp_path, [trick], steps, replay=log)
    fit(training, -1, callbacks=callbacks)
    saved, last = load_weights(tmp_path / "weights.safetensors")[0], training.classifier.state_dict()
    assert all(torch.equal(saved[name], last[name]) for name in last) == last_weights
    assert said == []
    assert not Recorded.of(tmp_path / "clock.csv", {"step": 7}).last_weights


@pytest.mark.parametrize("soft", [False, True])
def test_the_share_right_is_that_of_the_saved_network(soft: bool) -> None:
    images, labels = some_data()
    targets = F.one_hot(labels, 4).float() * 0.6 + 0.1 if soft else None
    training = Training(small_classifier(), images, labels, 4, [], **HYPERPARAMETERS, targets=targets)
    training.classifier.measure(images)
    fit(training, 3)
    saved = copy.deepcopy(training.classifier)
    fit(training, 40)
    after = copy.deepcopy(training.classifier.state_dict())
    for count, chosen in (32, [i * 48 // 32 for i in range(32)]), (1000, range(48)):
        answers = saved.eval()(saved.normalise(images[chosen])).argmax(1)
        expected = sum(answers[place] == labels[i] for place, i in enumerate(chosen)) / len(chosen)
        assert training.share_right(saved.state_dict(), count) == pytest.approx(float(expected))
    assert training.share_right(after, 48) != training.share_right(saved.state_dict(), 48)
    assert all(torch.equal(value, after[name]) for name, value in training.classifier.state_dict().items())
