"""Class probabilities from a trained network: as quickly as the device allows, and checked against full precision."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import nn

from speedtrain.model.ensemble import Member, mean_of_logarithms
from speedtrain.network.convolution import bf16_is_faster
from speedtrain.network.folding import fold_norms
from speedtrain.network.precision import autocast, full_precision
from speedtrain.thread_controller import ThreadController

MANY = 256
"""Images from which the quick way is worth its check. Fewer are predicted in full precision."""
SAMPLE = 64
"""Images on which the quick way is compared with full precision."""
BOUNDS = {"fp32": 1e-4, "bf16": 0.03, "fp16": 0.03}
"""The largest difference of a probability between the quick way and full precision, on the sample. ResNet-9s of widths
8 and 24 that were trained on CIFAR-10 differed by up to 0.016 in bf16, on 256 images; the median was 0.003."""
PIXELS = {"cpu": 64 * 32**2, "cuda": 1024 * 32**2}
"""Of a batch. On a CPU the feature maps of small batches stay in its caches: batches of 64 images of 32 pixels took
three quarters of the time of batches of 500, on an EPYC with AVX2."""
SMALLEST_BATCH = 8


class Predictor:
    """Predicts images, batch by batch.

    On a CPU it uses fewer threads while other programs want the cores: two threads on one free core of two took ten
    times as long as one.

    The quick way computes in the precision that is fastest on this device, with the batch norms folded into the
    convolutions. It is taken for MANY images or more, where it agrees with full precision on SAMPLE of them to within
    BOUNDS; otherwise full precision is.

    Args:
        members: the networks whose answers are averaged, on the device that predicts.
        device: of the members.
        augmented: whether the tricks act, such as by test-time augmentation. Default: True.
        exact: compute in full precision only. Default: False.
        batch_size: images that are computed at once. Default: as many as suit the device and their side.

    Attributes:
        precision: of the last images predicted: fp32, bf16 or fp16.
        difference: the largest one on the sample, of a probability, between the quick way and full precision; None
            where they were not compared.
    """

    def __init__(
        self,
        members: Sequence[Member],
        device: torch.device,
        *,
        augmented: bool = True,
        exact: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self._batch_size = batch_size
        self._members = [member if augmented else Member(member.classifier) for member in members]
        self._device, self._exact = device, exact
        self._thread_controller = ThreadController(torch.get_num_threads())
        self._networks = self._unfolded = [member.classifier.network for member in members]
        self.precision = "fp32"
        self.difference: float | None = None

    def batch_size(self, side: int) -> int:
        """Images that are computed at once."""
        return self._batch_size or max(
            SMALLEST_BATCH, PIXELS["cpu" if self._device.type == "cpu" else "cuda"] // side**2
        )

    @torch.inference_mode()
    def choose(self, images: np.ndarray) -> None:
        """Takes the quick way where it agrees with full precision on images uint8 [N, side, side, 3].

        It is decided once, by the first images that are MANY.
        """
        if self._exact or self.difference is not None or len(images) < MANY:
            return
        sample = images[np.linspace(0, len(images) - 1, SAMPLE).astype(int)]
        exact = self._compute(sample, self._unfolded, "fp32")[0]
        folded = [fold_norms(network) for network in self._unfolded]
        for precision in dict.fromkeys((fastest_precision(self._device), "fp32")):
            quick = self._compute(sample, folded, precision)[0]
            self.difference = float((quick - exact).abs().max())
            if self.difference <= BOUNDS[precision]:  # not where one of them is NaN
                self._networks, self.precision = folded, precision
                return

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, side, side, 3] → float32 [N, K], N ≥ 1."""
        return self.with_members(images)[0]

    @torch.inference_mode()
    def with_members(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, side, side, 3] → float32 [1 + M, N, K]: the answer, and before it was averaged that of each of the
        M members, if there are several (else M is 0)."""
        self.choose(images)
        return self._compute(images, self._networks, self.precision).cpu().numpy()

    def _compute(self, images: np.ndarray, networks: Sequence[nn.Module], precision: str) -> torch.Tensor:
        pairs = zip(self._members, networks, strict=True)
        forwards = [member.answer(network) for member, network in pairs]
        normalise = self._members[0].classifier.normalise  # all were trained on the same images
        parts = []
        size = self.batch_size(images.shape[1])
        adapts, threads = self._device.type == "cpu", torch.get_num_threads()
        # one context for all batches: within it, weights are converted once
        try:
            with full_precision(self._device) if precision == "fp32" else autocast(self._device, precision):
                for first in range(0, len(images), size):
                    if adapts:
                        torch.set_num_threads(self._thread_controller.update())
                    batch = normalise(torch.tensor(images[first : first + size], device=self._device))
                    logits = [forward(batch) for forward in forwards]
                    answers = [mean_of_logarithms(logits), *(logits if len(logits) > 1 else [])]
                    parts.append(torch.stack([answer.softmax(1) for answer in answers]))
        finally:
            torch.set_num_threads(threads)
        return torch.cat(parts, 1)


@cache
def fastest_precision(device: torch.device) -> str:
    """fp32, bf16 or fp16: what this device predicts fastest in."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if bf16_is_faster() else "fp32"
