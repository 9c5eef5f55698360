"""From a run's directory, or its weights file, to the trained classifier."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speedtrain.config import Config, read_recipe, resolve
from speedtrain.data.image_files import Reading
from speedtrain.device import find_device
from speedtrain.errors import UserError
from speedtrain.machine import available_cores
from speedtrain.model.ensemble import Member
from speedtrain.model.trained import TrainedModel
from speedtrain.model.weights import load_facts, load_weights, split_by_member
from speedtrain.network.classifier import build_classifier, make_tricks
from speedtrain.starting_point import WEIGHTS, prepared_images, weights_file


def load(path: str | Path, *, device: str = "auto") -> TrainedModel:
    """Loads the classifier of a run, also of one that was killed.

    The weights file alone is enough: its header holds the network, the tricks, the classes, and how images are brought
    to the network's side. Nothing is unpickled.

    Args:
        path: the run's directory, or its `weights.safetensors`, wherever it was copied to.
        device: where it predicts: auto, cpu, cuda or cuda:N. Default: auto, a GPU that can be used, or else the CPU.

    Raises:
        UserError: there is no such file, it is not the weights of a run, they are not finite, or the device cannot be
            used.
    """
    path = weights_file(path)
    state, stored = load_weights(path)
    facts: dict[str, Any] = stored
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise UserError(f"{path}: not all of its weights are finite numbers ({broken[0]}): the file is damaged")
    classes, parts = facts.get("classes"), facts.get("members", [facts])
    if not isinstance(classes, list) or not all("network" in part for part in parts):
        raise UserError(f"{path}: not the weights of a run")
    try:
        images = prepared_images(facts)
        reading = Reading(
            side=images["side"],
            fit=images["fit"],
            skip_unreadable=True,
            pixel_max=None if images["pixel_max"] == "auto" else images["pixel_max"],
        )
        members = [
            _member(part["network"], len(classes), images["side"], tensors)
            for part, tensors in zip(parts, split_by_member(state, len(parts)), strict=True)
        ]
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise UserError(f"{path}: its header does not describe the network that its weights are of") from None
    # torch counts the processors of the machine, also where a container may use but a few of them
    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))
    target = torch.device(find_device(device)[0])
    for member in members:
        member.classifier.to(target).eval()
    return TrainedModel(members, tuple(classes), reading, facts)


def _member(network: Mapping[str, Any], num_classes: int, side: int, state: dict[str, Tensor]) -> Member:
    """A network by its description in the header, with its weights."""
    tricks = make_tricks(network["tricks"])
    width = 0 if network["width"] == "auto" else network["width"]  # a timm model has none
    classifier = build_classifier(network["model"], num_classes, width, network["head_scale"], tricks, None, side)
    classifier.load_state_dict(state)
    return Member(classifier, tricks)


def read_run(run: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run that has saved something, and the facts stored with its weights.

    The run may have been killed at any instant after that.

    Raises:
        UserError: not a run directory, or no weights of a run in it.
    """
    for name in ("config.yaml", WEIGHTS):
        if not (run / name).is_file():
            raise UserError(f"{run}: not a run directory with something saved in it (there is no {name})")
    facts: dict[str, Any] = load_facts(run / WEIGHTS)
    if not {"step", "classes", "data_sha256"} <= facts.keys():
        raise UserError(f"{run / 'weights.safetensors'}: not the weights of a run")
    saved, images = read_recipe(run / "config.yaml"), prepared_images(facts)
    # what it started from need not be there any more
    config = resolve(recipe=run / "config.yaml", settings={"start_from": None, "pretrained": False})
    config.start_from, config.pretrained = saved.get("start_from"), saved.get("pretrained", False)
    config.side, config.fit = images["side"], images["fit"]  # a config.yaml from before there was a choice has neither
    if "max_epochs" not in saved:  # from before there was one
        config.max_epochs = None
    return config, facts
