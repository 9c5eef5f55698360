"""Test-time augmentation."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from tricks.trick import Forward, Trick, TrickError, pixels


@dataclass
class TestTimeAugmentation(Trick):
    """Predicts with the average of the logits over several views of each image.

    In mode `mirror` the views are the image and its mirror image, with weight 1/2 each: two forward passes. Mode
    `mirror+shift` adds shifts by one pixel of a 32-pixel image, or the same share of a larger one, padded by
    reflection: the image (weight 1/2), the image shifted down and right (1/4), and the image shifted up and left (1/4).
    Each shares its weight with its mirror image: six forward passes. Mode `shift` has these three without their mirror
    images, for classes that a mirror turns into each other.

    Args:
        mode: `mirror`, `shift` or `mirror+shift`. Default: mirror.
    """

    mode: Literal["mirror", "shift", "mirror+shift"] = "mirror"

    __test__: ClassVar[bool] = False  # pytest collects classes named Test…
    interacts: ClassVar[str] = (
        "Prediction takes two, three or six times as long; training does not change. flip and random_crop train on "
        "such views."
    )
    paper: ClassVar[str] = "Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024 (arXiv 2404.00498)"

    def __post_init__(self) -> None:
        if self.mode not in ("mirror", "shift", "mirror+shift"):
            raise TrickError(f"mode must be mirror, shift or mirror+shift, got {self.mode}")

    def prediction(self, forward: Forward) -> Forward:
        def mirrored(images: Tensor) -> Tensor:
            return (forward(images) + forward(images.flip(3))) / 2

        view: Forward = forward if self.mode == "shift" else mirrored

        def shifted(images: Tensor) -> Tensor:
            height, width = images.shape[2:]
            shift = pixels(1, min(height, width))
            padded = F.pad(images, (shift,) * 4, mode="reflect")
            corners = view(padded[..., :height, :width]) + view(padded[..., 2 * shift :, 2 * shift :])
            return view(images) / 2 + corners / 4

        return mirrored if self.mode == "mirror" else shifted
