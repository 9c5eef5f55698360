"""What is checked before the clock starts."""

from collections.abc import Mapping
from typing import Any

import torch

from speedtrain.config import AUTO, CIFAR10, IN_MEMORY, TORCHVISION, Config
from speedtrain.data import Images
from speedtrain.data.mapped import check_disk, folder_for
from speedtrain.data.table import SUFFIXES
from speedtrain.device import check_room_on, find_device
from speedtrain.errors import UserError
from speedtrain.machine import available_cores
from speedtrain.network.classifier import hub_tag
from speedtrain.run.estimated_noise import estimate_noise
from speedtrain.run.starting_weights import StartingWeights, read_starting_weights
from speedtrain.training.lightning_module import build_training
from speedtrain.training.long_runs import as_long_run
from tricks import TrickError


def resolve_machine(config: Config) -> list[str]:
    """Decides device and threads, in `config`; returns warnings.

    Raises:
        UserError: this machine has no such device, or the device no such precision.
    """
    config.device, unusable = find_device(config.device)
    warnings = [] if unusable is None else [unusable]
    if config.device == "cpu" and config.precision == "fp16":
        raise UserError("precision fp16 is for GPUs; on a CPU use bf16 or fp32")
    cores = available_cores()
    config.threads = config.threads or cores
    if config.threads > cores:
        warnings.append(f"warning: {config.threads} threads asked for on {cores} cores: no more than that will be used")
        config.threads = cores
    return warnings


def unused_options(config: Config, given: Mapping[str, Any]) -> list[str]:
    """Warnings about options that were given and change nothing.

    Args:
        given: option → value; None is not given.
    """
    names = {key for key, value in given.items() if value is not None}
    unused = []
    if config.model != "resnet9":
        unused += [f"{key} has no effect on {config.model}" for key in ("width", "head_scale") if key in names]
    by_name = any(str(data).startswith((AUTO, CIFAR10, TORCHVISION)) for data in (config.data, config.test))
    if (tag := hub_tag(config.model)) and config.from_random:
        unused += [f"{config.model}: {tag} names pretrained weights, which are not used; training begins from nothing"]
    if not by_name and "data_root" in names:
        unused += [f"--data-root has no effect on --data {config.data}"]
    if config.columns and not any(str(data).lower().endswith(SUFFIXES) for data in (config.data, config.test)):
        unused += [f"--columns has no effect on --data {config.data}"] if config.data != IN_MEMORY else []
    return [f"warning: {line}" for line in unused]


def check_room(train: Images, device: str) -> None:
    """Raises UserError where the training images do not fit on the device that trains, or on the disk on their way."""
    count, side = len(train.images), train.images.shape[1]
    check_room_on(device, count, side)
    check_disk(folder_for(train.images), count, side)


def check_network(config: Config, train: Images) -> StartingWeights | None:
    """Takes a few steps with a small version of the network and its tricks, so that errors appear now.

    Returns:
        The weights to start from; None for random ones.

    Raises:
        UserError: a trick does not work with this model, the model with these images, or the weights with the network.
    """
    config = as_long_run(config)
    estimate_noise(config, train)
    num_classes, side = len(train.classes), train.images.shape[1]
    device = torch.device(config.device)
    images = torch.tensor(train.images[:64], device=device)
    labels = torch.tensor(train.labels[:64], device=device)
    targets = None if train.targets is None else torch.tensor(train.targets[:64], device=device)
    width = 8 + (config.width % 4 if isinstance(config.width, int) else 0)  # as divisible as the one asked for
    batch_size = min(8, config.batch_size) if isinstance(config.batch_size, int) else 8
    try:
        with torch.random.fork_rng():
            training = build_training(
                config, images, labels, num_classes, width=width, precision="fp32", targets=targets
            )
            training.differentiate = torch.Tensor.backward
            optimizer = training.configure_optimizers()
            indices = torch.arange(batch_size, device=device) % len(images)
            for training.progress in (0.0, 0.5, 1.0):
                side = training.make_batch(indices).images.shape[-1]
                training.step(indices, optimizer)
    except TrickError as error:
        raise UserError(str(error)) from None
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        resized = "" if side == train.images.shape[1] else ", to which a trick resizes them"
        raise UserError(f"{config.model} does not work on {side}×{side} images{resized} ({reason})") from None
    return read_starting_weights(config, train.classes, train.images.shape[1])
