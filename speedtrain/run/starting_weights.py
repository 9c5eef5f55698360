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
from speedtrain.starting_point import WEIGHTS, TrainedRun, find_trained_run, refuse_frozen_random_layers

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class StartingWeights:
    """Weights to start from.

    Attributes:
        file: the tensors as a safetensors file, by their names in a `Classifier`. The head is missing where the classes
            are others: a new one is random.
        path: where they were read; None where timm offers them.
        described: what is stored with the new weights; with `path`, `started_from` in `result.json`.
        message: says to the user what training starts from.
    """

    file: bytes
    path: str | None
    described: dict[str, Any]
    message: str


def read_starting_weights(config: Config, classes: Sequence[str], side: int = 32) -> StartingWeights | None:
    """The weights that the configuration names, checked to fit its network; None for random ones.

    Args:
        config: as resolved.
        classes: names of the K classes to be learned.
        side: of the images in pixels, where the configuration names none. Default: 32.

    Raises:
        UserError: they cannot be had, or are of another network; or layers are to stay frozen as random weights.
    """
    if config.from_random:
        refuse_frozen_random_layers(config.tricks)
        return None
    run = find_trained_run(config.start_from)
    num_classes = len(classes if run is None else run.classes)
    width = 0 if config.width == "auto" else config.width  # a timm model has none
    tricks, side = make_tricks(config.tricks), config.named_side or side
    classifier = build_classifier(config.model, num_classes, width, config.head_scale, tricks, None, side)
    if run is not None:
        tensors, described, about = _of_run(run, classifier, classes)
    elif config.start_from is not None:
        tensors, described, about = _of_file(Path(config.start_from), classifier, config.model)
    else:
        tensors, described, about = _of_timm(classifier, config.model, side)
    file = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    described = {**described, "sha256": hashlib.sha256(file).hexdigest()}
    path = run.path if run is not None else config.start_from
    if path is not None:
        described["file_sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return StartingWeights(file, config.start_from, described, f"starts from {about}")


def _of_run(run: TrainedRun, classifier: Classifier, classes: Sequence[str]) -> tuple[Tensors, dict[str, Any], str]:
    """The weights of a run; the outputs of its head in the order of the classes now."""
    tensors, facts = load_weights(run.path)
    _check_fit(tensors, classifier.state_dict(), f"--from {run.path}", "the network in its header")
    head = head_names(classifier)
    same = set(run.classes) == set(classes)
    if same:
        order = [run.classes.index(name) for name in classes]
        tensors |= {name: tensors[name][order] for name in head}
        words = f"its {len(classes)} classes have the same names, so its head is kept"
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
        words = "its classes are different, so the head is new"
    described = {
        "kind": "run",
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
    given = _without_counters(given)
    wanted = _trunk(classifier)
    matched = "name"
    by_name = {name: given[short] for name, short in _short(wanted).items() if short in given}
    if len(by_name) < len(wanted):
        state = _without_counters(_of_network(classifier))
        by_order = dict(zip(state, given.values(), strict=False))
        if len(given) == len(state) and all(by_order[name].shape == wanted[name].shape for name in wanted):
            by_name, matched = {name: by_order[name] for name in wanted}, "order and shape"
    else:
        known = {name.removeprefix("network.") for name in classifier.state_dict()}
        if surplus := [name for name in given if name not in known]:
            raise UserError(f"--from {path}: {model} has no {surplus[0]}: these are the weights of another network")
    _check_fit(by_name, wanted, f"--from {path}", model)
    about = f"{path}: its {len(by_name)} tensors fit {model} by {matched}; the head is new"
    described = {"kind": "file", "network": model, "matched_by": matched, "head": "new"}
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
    _check_fit(tensors, wanted, f"the weights that timm offers for {name}", "the network with these tricks")
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


def _of_network(classifier: Classifier) -> Tensors:
    """A network's tensors, without the statistics of its images."""
    return {name: tensor for name, tensor in classifier.state_dict().items() if name.startswith("network.")}


def _without_counters(tensors: Mapping[str, Tensor]) -> Tensors:
    """Tensors without the counters of batch norms, which nothing needs and older files lack."""
    return {name: tensor for name, tensor in tensors.items() if tensor.ndim or tensor.is_floating_point()}


def _trunk(classifier: Classifier) -> Tensors:
    """All of a network's tensors but those of its head."""
    head = head_names(classifier)
    return {name: tensor for name, tensor in _without_counters(_of_network(classifier)).items() if name not in head}


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


def _check_fit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str, network: str) -> None:
    for name, tensor in wanted.items():
        short = name.removeprefix("network.")
        if name not in given:
            raise UserError(f"{source}: does not fit {network}: it has no {short}")
        if given[name].shape != tensor.shape:
            shapes = f"{list(given[name].shape)} instead of {list(tensor.shape)}"
            raise UserError(f"{source}: does not fit {network}: {short} is {shapes}")
