"""Reads the weights that training starts from, before the clock starts: of a run, a file, or timm's hub.

Nothing is executed in reading them: a run's weights are safetensors, and other files are read as plain tensors only.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from speedtrain.config import Config
from speedtrain.errors import UserError
from speedtrain.model.weights import load_facts, load_weights
from speedtrain.network.classifier import Classifier, build_classifier, head_names, make_tricks, timm_name
from speedtrain.starting_point import WEIGHTS, TrainedRun, find_trained_run

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class StartingWeights:
    """Weights to start from.

    Attributes:
        file: the tensors as a safetensors file, by their names in a `Classifier`. The head is missing where the classes
            are others: a new one is random.
        described: `started_from` in `result.json`.
        message: says to the user what training starts from.
    """

    file: bytes
    described: dict[str, Any]
    message: str


def read_starting_weights(config: Config, classes: Sequence[str]) -> StartingWeights | None:
    """The weights that the configuration names, checked to fit its network; None for random ones.

    Args:
        config: as resolved, with the side of the images.
        classes: names of the K classes to be learned.

    Raises:
        UserError: they cannot be had, or are of another network.
    """
    if config.from_random:
        return None
    run = find_trained_run(config.start_from)
    num_classes = len(classes if run is None else run.classes)
    width = 0 if config.width == "auto" else config.width  # a timm model has none
    side = config.named_side or 32
    classifier = build_classifier(
        config.model, num_classes, width, config.head_scale, make_tricks(config.tricks), None, side
    )
    if run is not None:
        tensors, described, about = _of_run(run, classifier, classes)
    elif config.start_from is not None:
        tensors, described, about = _of_file(Path(config.start_from), classifier, config.model)
    else:
        tensors, described, about = _of_timm(classifier, config.model, side)
    file = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    described = {**described, "sha256": hashlib.sha256(file).hexdigest()}
    return StartingWeights(file, described, f"starts from {about}")


def _of_run(run: TrainedRun, classifier: Classifier, classes: Sequence[str]) -> tuple[Tensors, dict[str, Any], str]:
    """The weights of a run; the outputs of its head in the order of the classes now."""
    tensors, facts = load_weights(run.path)
    _check_fit(tensors, classifier.state_dict(), run.path, "the network in its header")
    head = head_names(classifier)
    same = set(run.classes) == set(classes)
    if same:
        order = [run.classes.index(name) for name in classes]
        tensors |= {name: tensors[name][order] for name in head}
        words = f"its {len(classes)} classes are the same, so its head is kept"
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
        words = "its classes are others, so its head is new"
    described = {
        "kind": "run",
        "path": str(run.path.absolute()),
        "network": run.network["model"],
        "step": facts.get("step"),
        "head": "kept" if same else "new",
        "started_from": run.started_from,
    }
    return tensors, described, f"{run.path}, at step {facts.get('step')}: {words}"


def _of_file(path: Path, classifier: Classifier, model: str) -> tuple[Tensors, dict[str, Any], str]:
    """Tensors of a file, for a network of timm: under the same names, or else in the same order."""
    from timm.models import load_state_dict

    try:
        read: Mapping[str, Any] = load_state_dict(str(path), device="cpu", weights_only=True)
        given = {str(name): tensor for name, tensor in read.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # whatever a file that holds anything else makes of it
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"--from {path}: not a file of tensors and nothing else ({reason})") from None
    wanted = _trunk(classifier)
    matched = "name"
    by_name = {name: given[short] for name, short in _short(wanted).items() if short in given}
    if len(by_name) < len(wanted):
        state = _without_statistics(classifier.state_dict())
        by_order = dict(zip(state, given.values(), strict=False))
        if len(given) == len(state) and all(by_order[name].shape == wanted[name].shape for name in wanted):
            by_name, matched = {name: by_order[name] for name in wanted}, "order and shape"
    _check_fit(by_name, wanted, path, model)
    about = f"{path}: its {len(by_name)} tensors fit {model} by {matched}; the head is new"
    described = {"kind": "file", "path": str(path), "network": model, "matched_by": matched, "head": "new"}
    return {**by_name, **_statistics(model)}, described, about


def _of_timm(classifier: Classifier, model: str, side: int) -> tuple[Tensors, dict[str, Any], str]:
    """The weights that timm offers for its network, fetched or from its cache."""
    import timm

    name, sized = timm_name(model, side)
    try:
        network = timm.create_model(name, pretrained=True, **sized)
    except Exception as error:  # no network, no such weights: each library on the way raises its own
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{model}: its pretrained weights cannot be had ({reason}); where you have them as a file, give --from FILE"
        ) from None
    given = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    wanted = _trunk(classifier)
    tensors = {name: given[name] for name in wanted if name in given}
    _check_fit(tensors, wanted, Path(name), model)
    cfg: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]  # nn.Module promises nothing of it
    described = {
        "kind": "timm",
        "network": model,
        "weights": f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"],
        "licence": cfg.get("license"),
        "head": "new",
    }
    return {**tensors, **_statistics(model)}, described, f"timm's weights {described['weights']}; the head is new"


def check_same_start(start: StartingWeights | None, run: Path) -> None:
    """Refuses to train again from other weights than a run started from.

    Raises:
        UserError: they have changed.
    """
    facts: dict[str, Any] = load_facts(run / WEIGHTS)
    before = facts.get("started_from")
    if start is not None and before is not None and start.described["sha256"] != before["sha256"]:
        raise UserError(f"{run}: the weights that it started from have changed since")


def _without_statistics(state: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor for name, tensor in state.items() if name.startswith("network.")}


def _trunk(classifier: Classifier) -> Tensors:
    """All of a network's tensors but those of its head."""
    head = head_names(classifier)
    state = _without_statistics(classifier.state_dict())
    return {name: tensor for name, tensor in state.items() if name not in head}


def _short(wanted: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: name.removeprefix("network.") for name in wanted}


def _statistics(model: str) -> Tensors:
    """Mean and deviation of the images that timm's weights were trained on."""
    import torch
    from timm import get_pretrained_cfg

    cfg = get_pretrained_cfg(timm_name(model)[0])
    if cfg is None:  # a model of timm that nobody has trained
        raise UserError(f"{model}: timm does not say how its images are normalised; choose another network")
    return {"mean": torch.tensor(cfg.mean), "std": torch.tensor(cfg.std)}


def _check_fit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, network: str) -> None:
    for name, tensor in wanted.items():
        if name not in given:
            raise UserError(f"--from {path}: does not fit {network}: it has no {name.removeprefix('network.')}")
        if given[name].shape != tensor.shape:
            shapes = f"{list(given[name].shape)} instead of {list(tensor.shape)}"
            raise UserError(f"--from {path}: does not fit {network}: {name.removeprefix('network.')} is {shapes}")
