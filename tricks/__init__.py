"""Tricks that make image classifiers learn faster or better, alone or together.

They need only PyTorch and fit into any training loop. The example uses sharpness-aware minimization and gradient
centralization in a plain loop. `compute` is the gradient hook: it leaves a batch's gradient on the parameters, and
each trick wraps the previous `compute`.

    >>> import torch
    >>> from torch import nn
    >>> from torch.nn import functional as F
    >>> from tricks import SAM, Batch, GradientCentralization

    >>> _ = torch.manual_seed(0)
    >>> images, targets = torch.randn(256, 3, 8, 8), torch.randint(10, (256,))
    >>> model = nn.Sequential(
    ...     nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 6 * 6, 10)
    ... )
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    >>> def compute(batch):
    ...     optimizer.zero_grad()
    ...     loss = F.cross_entropy(model(batch.images), batch.targets)
    ...     loss.backward()
    ...     return loss.detach()

    >>> for trick in SAM(rho=0.05), GradientCentralization():
    ...     compute = trick.gradient(compute, model)

    >>> for step in range(20):
    ...     part = torch.randperm(256)[:64]
    ...     loss = compute(Batch(images[part], targets[part], progress=step / 20, step=step))
    ...     optimizer.step()

    >>> bool(loss < 1)  # at first it was log(10) = 2.3
    True

`TRICKS` holds all tricks by name, in the order in which they are applied. To write a new trick, see `Trick`.
"""

from tricks.blur_pool import BlurPool
from tricks.celu import CELU
from tricks.class_weights import ClassWeights
from tricks.cutmix import Cutmix
from tricks.cutout import Cutout
from tricks.early_learning_regularization import EarlyLearningRegularization
from tricks.fairness_regularizer import FairnessRegularizer
from tricks.flip import Flip
from tricks.forward_correction import ForwardCorrection
from tricks.freeze_trunk import FreezeTrunk
from tricks.generalized_cross_entropy import GeneralizedCrossEntropy
from tricks.ghost_batch_norm import GhostBatchNorm
from tricks.gradient_centralization import GradientCentralization
from tricks.harmonic import Harmonic
from tricks.label_smoothing import LabelSmoothing
from tricks.layerwise_learning_rate import LayerwiseLearningRate
from tricks.logit_adjustment import LogitAdjustment
from tricks.low_rank import LowRank
from tricks.meta_warmup import MetaWarmup
from tricks.mirror_equivariance import MirrorEquivariance
from tricks.mixup import Mixup
from tricks.momentum_sam import MomentumSAM
from tricks.muon import Muon
from tricks.patch_whitening import PatchWhitening
from tricks.peer_loss import PeerLoss
from tricks.progressive_resizing import ProgressiveResizing
from tricks.random_crop import RandomCrop
from tricks.random_resized_crop import RandomResizedCrop
from tricks.saf import SAF
from tricks.sam import SAM
from tricks.test_time_augmentation import TestTimeAugmentation
from tricks.trick import (
    STAGES,
    Batch,
    Compute,
    Forward,
    Loss,
    State,
    Trick,
    TrickError,
    frozen_statistics,
    parameters_with_gradient,
)
from tricks.trivial_augment import TrivialAugment
from tricks.weight_averaging import WeightAveraging

TRICKS: dict[str, type[Trick]] = {
    trick.name(): trick
    for trick in (
        PatchWhitening,
        BlurPool,
        MirrorEquivariance,
        Harmonic,
        CELU,
        GhostBatchNorm,
        RandomCrop,
        RandomResizedCrop,
        Flip,
        TrivialAugment,
        Cutout,
        Cutmix,
        Mixup,
        ProgressiveResizing,
        GeneralizedCrossEntropy,
        ForwardCorrection,
        EarlyLearningRegularization,
        LogitAdjustment,
        LabelSmoothing,
        ClassWeights,
        PeerLoss,
        SAF,
        FairnessRegularizer,
        SAM,
        MomentumSAM,
        MetaWarmup,
        GradientCentralization,
        FreezeTrunk,
        Muon,
        LayerwiseLearningRate,
        LowRank,
        WeightAveraging,
        TestTimeAugmentation,
    )
}
"""Every trick by its name in recipes, in the order in which they act: within a stage, the later wraps the earlier."""

__all__ = [
    "CELU",
    "SAF",
    "SAM",
    "STAGES",
    "TRICKS",
    "Batch",
    "BlurPool",
    "ClassWeights",
    "Compute",
    "Cutmix",
    "Cutout",
    "EarlyLearningRegularization",
    "FairnessRegularizer",
    "Flip",
    "Forward",
    "ForwardCorrection",
    "FreezeTrunk",
    "GeneralizedCrossEntropy",
    "GhostBatchNorm",
    "GradientCentralization",
    "Harmonic",
    "LabelSmoothing",
    "LayerwiseLearningRate",
    "LogitAdjustment",
    "Loss",
    "LowRank",
    "MetaWarmup",
    "MirrorEquivariance",
    "Mixup",
    "MomentumSAM",
    "Muon",
    "PatchWhitening",
    "PeerLoss",
    "ProgressiveResizing",
    "RandomCrop",
    "RandomResizedCrop",
    "State",
    "TestTimeAugmentation",
    "Trick",
    "TrickError",
    "WeightAveraging",
    "frozen_statistics",
    "parameters_with_gradient",
]
