"""Hardware-aware: measures this machine, and chooses what the budget allows on it."""

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from speedtrain.config import Config, Precision
from speedtrain.network.classifier import make_tricks
from speedtrain.network.convolution import bf16_is_faster
from speedtrain.network.precision import PRECISIONS
from speedtrain.training.epoch_limit import epoch_limit, limited_epochs
from speedtrain.training.lightning_module import Training, build_training
from speedtrain.training.long_runs import added_in_long_runs, as_long_run, gain_of_long_runs, is_long
from speedtrain.training.memory_guard import SMALLEST_BATCH, memory_is_short
from speedtrain.training.plan import Plan
from speedtrain.training.scaling_law import BATCH_SIZE, law_for
from tricks import LowRank, ProgressiveResizing, Trick
from tricks.low_rank import fastest_ranks

WIDTHS = (8, 12, 16, 24, 32, 48, 64)
START_WIDTH = 16
GPU_START_WIDTH = 64  # as fast as narrower ones on a fast GPU, which waits for its host (docs/experiments.md)
PROBE_SHARE = 0.02
RANKS_SHARE = 0.02  # of the time, to time the ranks of low_rank
OTHER_SECONDS = 1.0  # not for training: building, the first and the last save, the exit
SAVE_SHARE = 0.005  # of the rest, for the saves between
GPU_BATCH_SIZE = 512  # a GPU waits for its host where a step is small
GPU_REPETITIONS = 3  # of a step there, which takes milliseconds that its host may double: the shortest counts
CUDA_BYTES = 2**30  # of a GPU's memory, which CUDA itself takes for each process: an upper estimate
GPU_SEARCH_SECONDS = 1.0  # for the search of a width there, however short the budget: wider networks may cost no time
BACKBONE_BATCH_SIZE = 32  # few epochs fit of a network with given weights: more steps count for more than their speed


def make_plan(
    config: Config,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    seconds: float,
    *,
    plan_only: bool = False,
    at_once: Sequence[int] = (),
) -> Plan:
    """Decides what the configuration leaves to `auto`.

    The rule: the fastest precision; then the width of ResNet-9 with the highest accuracy that the scaling law
    predicts from the measured images per second. The search starts at a middle width, on a CPU in a short budget at a
    narrower one, on a GPU at the widest. It goes up, or else down, for as long as the predicted accuracy rises. Ranks
    that are to be timed come last: the width is the one for a network without `low_rank`.

    Args:
        images: uint8 [N, H, W, 3], on the device that trains; labels: int64 [N].
        num_classes: K.
        seconds: left for planning and training.
        plan_only: measure even where nothing is left to decide; default: no.
        at_once: numbers of networks, rising, whose speeds at once are measured if this is a GPU. Default: none.

    Returns:
        The plan; what `config` pins stands in it as it is.

    Raises:
        RuntimeError: torch cannot take a step, for example because memory is short.
        TrickError: a trick cannot act on this model.
    """
    # given weights fit the network that was checked before the clock started, whose ranks are known
    low_rank = _untimed(make_tricks(config.tricks)) if config.from_random else None
    probed = config
    if low_rank is not None:
        others = {name: values for name, values in config.tricks.items() if name != low_rank.name()}
        probed = replace(config, tricks=others)
    probe = _Probe(probed, images, labels, num_classes, seconds)
    start = GPU_START_WIDTH if images.is_cuda else START_WIDTH
    plan = Plan(
        model=config.model,
        side=images.shape[1],
        width=None if config.model != "resnet9" else (start if config.width == "auto" else config.width),
        batch_size=probe.batch_size,
        precision=config.precision,
        resolutions=_resolutions(make_tricks(config.tricks), images.shape[1]),
    )
    if plan.precision == "auto":
        plan.precision = probe.fastest_precision(plan)
    if plan.width is not None and config.width == "auto":
        plan.width = probe.best_width(plan)
        probe.decide_long(plan)
    measured = None
    if plan_only or "auto" in (config.width if plan.width else None, config.precision):
        measured = probe.measure(plan.width, plan.precision)
        if images.is_cuda:
            plan.at_once = probe.speeds_at_once(at_once, plan)
    if low_rank is not None:  # after that, which halves a batch that a GPU has no memory for
        plan.ranks = probe.fastest_ranks(plan, low_rank.margin)
    if measured is not None:
        plan.seconds_left = probe.add_predictions(plan)
        plan.images_per_second = probe.rate_of_plan(plan)
        most_epochs = epoch_limit(probe.probed, len(images))
        plan.epochs = round(min(most_epochs, plan.images_per_second * plan.seconds_left / len(images)), 1)
        plan.accuracy = measured["accuracy"]  # of the recipe's speed: the law knows nothing else
        needed = most_epochs * len(images) / (plan.images_per_second or math.inf)
        if 0 < needed < plan.seconds_left:
            plan.reasons.append(
                f"training will end after {most_epochs:.4g} epochs (max_epochs), in about {needed:.0f} of "
                f"{plan.seconds_left:.0f} s"
            )
    plan.alternatives = probe.measured
    if probe.batch_size < plan.batch_size:
        plan.reasons.append(f"batches of {probe.batch_size}: the GPU's memory is too short for {plan.batch_size}")
        plan.batch_size = probe.batch_size
    if any(row["images_per_second"] == 0 for row in probe.measured):
        plan.reasons.append("a network with 0 images/s: the GPU's memory is too short for its batch")
    return plan


class _Probe:
    """Runs a few real training steps, with the tricks that act on them, of one network after another."""

    def __init__(
        self,
        config: Config,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        seconds: float,
    ) -> None:
        self.config, self.images, self.labels, self.num_classes = config, images, labels, num_classes
        self.probed = config  # with what a long run adds, from where that is decided on
        self.rate_with_added: float | None = None
        self.law = law_for(images.shape[1])
        self.seconds = seconds
        self.begun = time.monotonic()
        self.until = self.begun + max(PROBE_SHARE * seconds, GPU_SEARCH_SECONDS if images.is_cuda else 0.0)
        self.measured: list[dict[str, Any]] = []
        usual = GPU_BATCH_SIZE if images.is_cuda else BATCH_SIZE
        if config.model != "resnet9" and not config.from_random:
            usual = BACKBONE_BATCH_SIZE
        self.batch_size = usual if config.batch_size == "auto" else config.batch_size

    def measure(self, width: int | None, precision: str) -> dict[str, Any]:
        """Images per second of whole training steps, from the middle of each third of the schedule.

        0 of them where a GPU's memory is too short for a step. A first network that does not fit halves the batch, if
        the planner is to choose it, until it fits.

        Raises:
            RuntimeError: memory is too short for the smallest batch.
        """
        for known in self.measured:
            if (known["width"], known["precision"]) == (width, precision):
                return known
        rate = 0.0
        while rate == 0.0:
            halve = not self.measured and self.config.batch_size == "auto"
            try:
                rate = self._rate(width, precision, self.batch_size)
            except RuntimeError as error:
                if not memory_is_short(error) or (halve and self.batch_size // 2 < SMALLEST_BATCH):
                    raise
            if rate == 0.0:
                torch.cuda.empty_cache()
                if not halve:
                    break
                self.batch_size //= 2
        result = {"width": width, "precision": precision, "images_per_second": rate}
        self.measured.append(result)
        return result

    def speeds_at_once(self, numbers: Sequence[int], plan: Plan) -> dict[int, float]:
        """How fast each of several networks like the planned one would train at once, as a share of one alone.

        Measured by a step with so many times the images: an upper estimate. It keeps the GPU nearly as busy as the
        steps of all networks do, and the CPU as busy as a step of one, since each network has a process of its own. So
        if a GPU waits for its CPU most of the time, it trains several networks almost as fast as one.

        Args:
            numbers: of networks, rising.

        Returns:
            Number → share up to 1; 0 if the GPU's memory is too small.
        """
        alone = self.rate_of_plan(plan)
        speeds: dict[int, float] = {}
        measured = 1
        for number in numbers:
            if measured > 1 and speeds[measured] <= 1.2 / measured:
                # the GPU is the limit already: more networks share what there is, and need no costly step to tell
                speed = speeds[measured] * measured / number
            else:
                measured = number
                try:
                    speed = self._rate(plan.width, plan.precision, number * self.batch_size) / (number * alone)
                except RuntimeError:  # short of memory, in one of many words; if it is worse, the next step says so
                    speed = 0.0
                gc.collect()
                torch.cuda.empty_cache()
            # the most that this process has needed was for the images of as many networks as were measured
            needed = torch.cuda.max_memory_reserved() * number / measured
            needed += (number - 1) * self.images.nbytes + number * CUDA_BYTES
            room = needed <= torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
            speeds[number] = round(min(1.0, speed), 3) if room else 0.0
        return speeds

    def _rate(self, width: int | None, precision: str, batch_size: int) -> float:
        device = self.images.device
        training = self._training(width, precision)
        training.differentiate = Tensor.backward
        optimizer = training.configure_optimizers()
        indices = torch.arange(batch_size, device=device) % len(self.images)

        def seconds_of_step(progress: float) -> float:
            training.progress = progress
            repetitions = []
            for _ in range(GPU_REPETITIONS if device.type == "cuda" else 1):
                begun = time.monotonic()
                training.step(indices, optimizer)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                repetitions.append(time.monotonic() - begun)
            return min(repetitions)

        # the last third comes first, since every trick is on there: if time is short, it stands for all
        last, *others = (5 / 6, 3 / 6, 1 / 6)
        seconds_of_step(last)  # the first step of a network, and of an image size, makes its kernels
        training.num_steps = 0
        taken, warm = [seconds_of_step(last)], {training.last_side}
        for third in others:
            if time.monotonic() < self.until:
                seconds = seconds_of_step(third)
                if training.last_side not in warm:
                    warm.add(training.last_side)
                    seconds = seconds_of_step(third)
                taken.append(seconds)
        return round(batch_size * len(taken) / sum(taken), 1)

    def add_predictions(self, plan: Plan) -> float:
        """Adds to every measurement the epochs to come and their predicted accuracy. Called when measuring is over.

        Whether the plan's network is in a long run is decided by then, and stays.

        Returns:
            Seconds that are left for training.
        """
        left, num_images = self._left(), len(self.images)
        for row in self.measured:
            width, rate = row["width"], row["images_per_second"]
            epochs = self._epochs(width, rate, left)
            gain = 0.0 if width is None else gain_of_long_runs(self.config, width, epochs)
            if (width, row["precision"]) == (plan.width, plan.precision):
                epochs = min(rate * left / num_images, epoch_limit(self.probed, num_images))
                gain = (self.config.in_long_runs or {})["gain"] if plan.added else 0.0
            row["epochs"], row["accuracy"] = round(epochs, 1), None
            if width is not None and self.config.from_random:
                error = self.law.error(width, epochs, num_images, self.num_classes) - gain
                row["accuracy"] = round(max(1 / self.num_classes, 1 - error), 4)
        return round(left, 1)

    def fastest_precision(self, plan: Plan) -> Precision:
        """bf16 or fp32 on a CPU, whichever is faster here; on a GPU bf16 where it is native, else fp16."""
        if self.images.is_cuda:
            choice: Precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
            plan.reasons.append(f"precision {choice}: this GPU's native half precision")
            return choice
        if not bf16_is_faster():
            plan.reasons.append("precision fp32: this CPU has no faster bf16 matrix product")
            return "fp32"
        names: tuple[Precision, ...] = ("bf16", "fp32")
        rates = {name: self.measure(plan.width, name)["images_per_second"] for name in names}
        choice = max(rates, key=lambda name: rates[name])
        plan.reasons.append(f"precision {choice}: {rates['bf16']:.0f} images/s in bf16, {rates['fp32']:.0f} in fp32")
        return choice

    def best_width(self, plan: Plan) -> int:
        """The width of `WIDTHS` with the highest predicted accuracy, searched upwards or downwards from the plan's.

        On a CPU a network of half the width is taken to be twice as fast. Where that makes a narrower one the best, in
        a short budget, the search begins there: each network that is measured costs up to a second.
        """

        def is_better(position: int, other: int) -> bool:
            rates = {at: self.measure(WIDTHS[at], plan.precision)["images_per_second"] for at in (position, other)}
            left = self._left()  # the same for both

            def rank(at: int) -> tuple[float, float]:
                # by error, since with few images the predicted accuracy is chance for all; with no time left, by rate
                return -self._error(WIDTHS[at], rates[at], left), rates[at]

            return rank(position) > rank(other)

        assert plan.width is not None
        position = WIDTHS.index(plan.width)
        work = plan.width * self.measure(plan.width, plan.precision)["images_per_second"]
        if not self.images.is_cuda:
            left = self._left()
            # of equal ones the widest, which is measured: with no time left, the error of all is infinite
            position = min(range(position, -1, -1), key=lambda at: self._error(WIDTHS[at], work / WIDTHS[at], left))
        for direction in (1, -1):
            best = position
            while 0 <= best + direction < len(WIDTHS) and (direction < 0 or time.monotonic() < self.until):
                if not is_better(best + direction, best):
                    break
                best += direction
            if best != position:
                break
        # measuring began at the plan's width, which the search may not have met
        for other in [WIDTHS.index(row["width"]) for row in self.measured if row["precision"] == plan.precision]:
            if is_better(other, best):
                best = other
        width, rate = WIDTHS[best], self.measure(WIDTHS[best], plan.precision)["images_per_second"]
        epochs = self._epochs(width, rate, self._left())
        plan.reasons.append(
            f"width {width}: the highest predicted accuracy of the widths measured, with {epochs:.0f} epochs"
        )
        return width

    def rate_of_plan(self, plan: Plan) -> float:
        """Images per second of the planned network, with what a long run adds."""
        rate: float = self.measure(plan.width, plan.precision)["images_per_second"]
        return rate if self.rate_with_added is None else self.rate_with_added

    def decide_long(self, plan: Plan) -> None:
        """Adds the tricks of a long run, if there will be so many epochs, and measures the plan's network with them.

        The decision stays, also where the slower steps then leave a few epochs less than it asks for.
        """
        assert plan.width is not None
        epochs = self._epochs(plan.width, self.rate_of_plan(plan), self._left())
        if is_long(self.config, plan.width, epochs):
            self.probed = as_long_run(self.config)
            try:
                self.rate_with_added = self._rate(plan.width, plan.precision, self.batch_size)
            except RuntimeError as error:
                if not memory_is_short(error):
                    raise
                plan.added_fits = False
            if not plan.added_fits:  # here, since an exception under way would hold the memory
                gc.collect()
                torch.cuda.empty_cache()
                self.config = self.probed = replace(self.config, in_long_runs=None)
                plan.reasons.append("no tricks of a long run: the GPU's memory is too short for a step with them")
                return
            plan.added = added_in_long_runs(self.config)
            plan.reasons.append(
                f"with {', '.join(plan.added)}: {epochs:.0f} epochs of width {plan.width} (in_long_runs)"
            )

    def fastest_ranks(self, plan: Plan, margin: float) -> list[int]:
        """The rank of each candidate of `low_rank` in the plan's network, by timing it; 0 keeps a convolution."""
        training = self._training(plan.width, plan.precision)
        training.progress = 1.0  # images have their full size there
        indices = torch.arange(self.batch_size, device=self.images.device) % len(self.images)
        batch = training.make_batch(indices).images
        network, until = training.classifier.network, time.monotonic() + RANKS_SHARE * self.seconds
        ranks = list(fastest_ranks(network, batch, margin, PRECISIONS[plan.precision], until))
        plan.reasons.append(f"ranks {ranks}: each saves {margin:.0%} of a convolution's time; 0 keeps it")
        return ranks

    def _training(self, width: int | None, precision: str) -> Training:
        """A network to take steps with; a batch of images is enough for its statistics."""
        return build_training(
            self.probed,
            self.images,
            self.labels,
            self.num_classes,
            width=width,
            precision=precision,
            statistics=self.images[: self.batch_size],
        )

    def _left(self) -> float:
        """Seconds left for training, if it were built now."""
        return max(0.0, (1 - SAVE_SHARE) * (self.seconds - (time.monotonic() - self.begun) - OTHER_SECONDS))

    def _epochs(self, width: int | None, rate: float, left: float) -> float:
        """How many there will be in `left` seconds, at `rate` images per second."""
        return limited_epochs(self.config, width, rate * left / len(self.images), len(self.images))

    def _error(self, width: int, rate: float, left: float) -> float:
        """The predicted error of a network that trains at `rate` images per second, with the tricks of a long run."""
        epochs = self._epochs(width, rate, left)
        error = self.law.error(width, epochs, len(self.images), self.num_classes)
        return error - gain_of_long_runs(self.config, width, epochs)


def _untimed(tricks: Sequence[Trick]) -> LowRank | None:
    """The trick `low_rank`, if its ranks are to be timed."""
    found = (trick for trick in tricks if isinstance(trick, LowRank) and trick.timed and not trick.ranks)
    return next(found, None)


def _resolutions(tricks: Sequence[Trick], side: int) -> list[int]:
    for trick in tricks:
        if isinstance(trick, ProgressiveResizing):
            return [trick.side(side, progress) for progress in (0.0, *trick.until)]
    return [side]
