"""What training may start from: the weights of a run, or pretrained ones. Here: which network they are for.

Light to import; `run/starting_weights.py` reads the tensors.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speedtrain.errors import UserError

WEIGHTS = "weights.safetensors"
"""Name of the weights file in a run's directory."""


@dataclass(frozen=True)
class TrainedRun:
    """The weights file of a run, by its header.

    Attributes:
        path: of the file.
        classes: names of its classes.
        network: `model`, `width`, `head_scale` and `tricks`.
        images: `side`, `fit` and `pixel_max`, as it prepares an image.
        started_from: what the run itself started from; None: random weights.
    """

    path: Path
    classes: tuple[str, ...]
    network: Mapping[str, Any]
    images: Mapping[str, Any]
    started_from: Mapping[str, Any] | None

    def settings(self) -> dict[str, Any]:
        """The keys of a configuration that belong to this network."""
        return {**{key: self.network[key] for key in ("model", "width", "head_scale")}, **self.images}

    def tricks(self) -> dict[str, dict[str, Any]]:
        """The tricks that shape this network."""
        return self.shaping(self.network["tricks"])

    def with_its_tricks(self, tricks: Mapping[str, Any]) -> dict[str, Any]:
        """Tricks of a recipe, with those that shape this network in place of the recipe's own."""
        own = self.shaping(tricks)
        return {**self.tricks(), **{name: values for name, values in tricks.items() if name not in own}}

    @staticmethod
    def shaping(tricks: Mapping[str, Any]) -> dict[str, Any]:
        """Those of some tricks that change a network's modules."""
        from tricks import TRICKS  # torch comes with it, so it comes late

        return {name: tricks[name] for name in tricks if name in TRICKS and "model" in TRICKS[name].stages()}


def find_trained_run(start_from: str | Path | None) -> TrainedRun | None:
    """The run whose weights training is to start from; None where it starts from others.

    Raises:
        UserError: there is no such run or file.
    """
    if start_from is None:
        return None
    if not isinstance(start_from, str | Path):
        raise UserError(f"start_from must be text or null, got {start_from!r}")
    if str(start_from) == "":
        raise UserError("--from is empty; give a run's directory, or a file of weights")
    if not os.path.exists(start_from):
        raise UserError(f"--from {start_from}: no such run directory or file")
    run = read_trained_run(weights_file(start_from))
    if run is None and os.path.isdir(start_from):
        raise UserError(f"--from {start_from}: its {WEIGHTS} cannot be read as the weights of a run")
    if run is None and str(start_from).endswith(".safetensors"):
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(start_from, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--from {start_from}: not a readable weights file ({reason}); copy it again") from None
    return run


def check_start(start_from: str | None, pretrained: bool, model: str, start: TrainedRun | None) -> None:
    """Refuses what training cannot start from.

    Raises:
        UserError: says what to give instead.
    """
    if pretrained and start_from is not None:
        raise UserError("--from and pretrained=true: training can start from one of them only")
    if model != "resnet9":
        return
    if pretrained:
        raise UserError("pretrained=true is for networks of timm, as in --model timm:resnet18; resnet9 has --from RUN")
    if start_from is not None and start is None:
        raise UserError(
            f"--from {start_from}: not the weights of a run; say which network it is for, as in --model timm:resnet18"
        )


def refuse_frozen_random_layers(tricks: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses tricks that would keep random weights as they are.

    Raises:
        UserError: says what to do.
    """
    if tricks.get("freeze_trunk", {}).get("lower"):
        raise UserError(
            "freeze_trunk: training starts from random weights, and the lower layers would stay so; give weights to "
            "start from (--from), or set freeze_trunk.lower=0"
        )


CPU_SIDE = 160
"""Of a network that was trained at 224 pixels, in the time that a CPU has for it: see configs/finetune.yaml."""


def backbone_side(model: str, device: str) -> int | None:
    """The side of the images that a network of timm with given weights takes, where nobody names one.

    On a GPU it is what the weights were trained at. On a CPU it is 160 at most, unless the network takes no other.

    Args:
        model: as in `Config`.
        device: as in `Config`.

    Returns:
        None where timm says nothing about this network.
    """
    import timm

    from speedtrain.device import find_device

    try:
        cfg = timm.get_pretrained_cfg(model.removeprefix("timm:"))
    except RuntimeError:  # no such tag: told when the network is built
        return None
    if cfg is None:
        return None
    side = max(cfg.input_size[1:])
    return side if cfg.fixed_input_size or find_device(device)[0] != "cpu" else min(side, CPU_SIDE)


def weights_file(path: str | Path) -> Path:
    """The weights file of a run's directory, or the file itself.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if os.path.isfile(path):  # unlike Path.is_file, it also says no where it may not look
        return path
    if not os.path.isfile(path / WEIGHTS):
        raise UserError(f"{path}: not a run directory with something saved in it (there is no {WEIGHTS})")
    return path / WEIGHTS


def read_trained_run(path: Path) -> TrainedRun | None:
    """What the header of a weights file says; None where it is not of a run, but any other file of tensors.

    Raises:
        UserError: it is of several networks.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, str] = file.metadata() or {}
        facts = {name: json.loads(header[name]) for name in _FACTS if name in header}
    except (OSError, SafetensorError, ValueError):
        return None
    members = facts.get("members", [facts])
    if len(members) > 1:
        raise UserError(f"{path}: the weights of several networks; name one of them, such as its folder members/1")
    classes, network = facts.get("classes"), members[0].get("network")
    if not isinstance(classes, list) or not isinstance(network, dict):
        return None
    try:
        run = TrainedRun(path, tuple(classes), network, prepared_images(facts), facts.get("started_from"))
        run.settings(), run.tricks()
    except (KeyError, TypeError):
        return None
    return run


def prepared_images(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How a run's images were prepared, by the facts stored with its weights: `side`, `fit`, `pixel_max`."""
    images: dict[str, Any] = facts.get("images", {"side": 32, "fit": "crop"})  # runs from before there was a choice
    return {"pixel_max": "auto", **images}


_FACTS = ("classes", "network", "images", "started_from", "members")
