"""What the planner decided, and why."""

from dataclasses import asdict, dataclass, field
from typing import Any

from speedtrain.config import Precision


@dataclass
class Plan:
    """What the planner decided, and why.

    Attributes:
        side: of the images, in pixels.
        model, width, batch_size, precision: as in `Config`, decided. Width is null for a timm model.
        resolutions: image sides in the order in which training uses them.
        ranks: of `low_rank`, timed in the network that was decided; null where they are given, or not to be timed.
        added: tricks of a long run (`in_long_runs`) with their hyperparameters, added to those of the recipe.
        added_fits: whether a GPU's memory has room for a step with such tricks; yes where that was not tried.
        images_per_second: measured in a short probe; 0 where nothing was left to decide. Where ranks are timed, this is
            the speed without `low_rank`.
        seconds_left: predicted: the time that planning, building and saving leave.
        epochs: predicted, from that rate and that time, and not more than `max_epochs` of the configuration.
        accuracy: predicted for photographs as hard as CIFAR-10's with the default recipe in batches of 128, and what
            the tricks of a long run add; null for a timm model, and where training starts from given weights.
        reasons: one line per decision.
        alternatives: what was measured: width, precision, images_per_second, epochs, accuracy.
        at_once: of several networks at once on one GPU, by their number: the speed of each, as a share of that of one
            alone, at most. 0 where the GPU's memory is too small. Empty on a CPU, where it is not measured.
    """

    model: str
    side: int
    width: int | None
    batch_size: int
    precision: Precision
    resolutions: list[int]
    ranks: list[int] | None = None
    added: dict[str, dict[str, Any]] = field(default_factory=dict)
    added_fits: bool = True
    images_per_second: float = 0.0
    seconds_left: float = 0.0
    epochs: float = 0.0
    accuracy: float | None = None
    reasons: list[str] = field(default_factory=list)
    alternatives: list[dict[str, Any]] = field(default_factory=list)
    at_once: dict[int, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
