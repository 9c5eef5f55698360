"""`result.json`: what a run was, and how it ended."""

import json
import platform
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from speedtrain import __version__
from speedtrain.config import Config
from speedtrain.data import Data, Images
from speedtrain.machine import processor_name
from speedtrain.member_configs import in_words
from speedtrain.model.load import load
from speedtrain.model.trained import TrainedModel
from speedtrain.model.weights import load_facts
from speedtrain.run.interruption import Interruption
from speedtrain.run.launcher import WorkerProcess
from speedtrain.run.scoring import Score, by_size
from speedtrain.training.scaling_law import predict_accuracy
from speedtrain.view.html import percent, picture, table, tag
from timing import ExitStatus

SCHEMA = 2
"""Schema 1 called `rollbacks` `repairs`, and the phase `unreported` `untold`."""

ANNEALED = 0.8
"""Progress at which the learning rate has come down far enough."""


class Result(dict[str, Any]):
    """What `result.json` holds; from `train` also `out`, the run directory. In a notebook it shows itself."""

    def model(self, device: str = "auto") -> TrainedModel:
        """The trained model; arguments and errors as for `speedtrain.load`."""
        return load(self["out"], device=device)

    def _repr_html_(self) -> str:
        """Accuracy, curve and phases, as a notebook's output."""
        if self["accuracy"] is None:
            return tag("p", f"{self['status']}: {self.get('error', 'nothing was trained')}")
        low, high = self["accuracy_interval"]
        on = f"{self['num_test_images']} {self['accuracy_on']} images of {self['test_data']['name']}"
        words = f"accuracy {percent(self['accuracy'])} (95 % interval {percent(low)} to {percent(high)}; {on})"
        curve = Path(self["out"], "curve.png")
        rows = [[name, f"{seconds:.2f}"] for name, seconds in self["phases"].items()]
        return "".join(
            [
                tag("p", tag("strong", words)),
                tag("p", f"{self['status']}: {self['epochs']:.1f} epochs, in {self['out']}"),
                picture(curve.read_bytes(), "loss and learning rate against time", width=700) if curve.exists() else "",
                table(f"{self['wall_seconds']:.2f} s of {self['budget_seconds']:g}", ["phase", "seconds"], rows),
            ]
        )


Status = Literal["finished", "killed", "interrupted", "failed"]


def conclude(
    worker: WorkerProcess,
    ended: ExitStatus,
    interruption: Interruption,
    *,
    saved: bool,
    explain: Callable[[], str],
) -> tuple[Status, str | None]:
    """How a run ended, and why it failed where it did.

    A run that saved something counts by how its process ended. One that saved nothing failed, unless someone ended it.

    Args:
        saved: whether there are weights to score.
        explain: returns why nothing was saved, where neither the process nor the disk is the reason. May take long.
    """
    status = _status(worker, ended)
    if saved or status == "interrupted":
        return status, worker.failure(ended) if status == "failed" else None
    error = worker.failure(ended)
    if error is None and worker.save_error is not None:
        error = f"nothing of the training could be saved: {worker.save_error}"
    error = error or explain()
    return ("failed", error) if interruption.signal is None else ("interrupted", "nothing was trained")


def _status(worker: WorkerProcess, ended: ExitStatus) -> Status:
    if ended.reason in ("interrupted", "abandoned") or (worker.done or {}).get("stopped"):
        return "interrupted"
    if ended.reason == "deadline" or ended.returncode == -signal.SIGKILL:
        return "killed"
    if ended.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):  # it came before training began, or after
        return "interrupted"
    return "finished" if ended.returncode == 0 else "failed"


def describe(config: Config, data: Data, worker: WorkerProcess, ended: ExitStatus, events: Sequence[str]) -> Result:
    """Everything in `result.json` that does not depend on the score; see docs/design.md for the keys."""
    sizes = len(data.train.images), len(data.train.classes), len(data.test.images)
    described: dict[str, Any] = {
        "schema": SCHEMA,
        "status": None,
        "budget_seconds": config.budget,
        "wall_seconds": round(ended.wall_seconds, 3),
        "accuracy": None,
        "accuracy_on": "holdout" if data.test_is_holdout else "test",
        "num_test_images": len(data.test.images),
        "data": {
            "name": data.train.name,
            "num_train": len(data.train.images),
            "num_classes": len(data.train.classes),
            "classes": data.train.classes,
            "class_counts": class_counts(data.train),
            "sha256": data.train.sha256(),
            "notes": list(data.notes),
            "skipped": list(data.skipped),
        },
        "annotators": None if data.annotators is None else {**data.annotators.as_dict(), "labels": data.labels},
        "test_data": {
            "name": data.test.name,
            "sha256": data.test.sha256(),
            "class_counts": class_counts(data.test),
            "largest_class_share": max(class_counts(data.test)) / len(data.test.labels),
        },
        "started_from": None if worker.start is None else {**worker.start.described, "path": worker.start.path},
        "tricks": config.tricks,
        **({"members": _named_members(config)} if config.members else {}),
        "plan": worker.plan,
        "expected": predict_accuracy(config, worker.plan, *sizes, native=data.train.like_cifar10),
        "phases": _phases(worker, ended),
        "steps": worker.last.get("step", 0),
        "epochs": round(worker.last.get("images_seen", 0) / len(data.train.images) / max(1, len(config.members)), 3),
        "images_seen": worker.last.get("images_seen", 0),
        "images_per_second": _images_per_second(worker),
        "seed": config.seed,
        "device": _device_name(config),
        "threads": config.threads,
        "threads_used": worker.last.get("threads", 0.0),
        "all_epochs": bool((worker.done or {}).get("all_epochs")),
        "rollbacks": worker.last.get("rollbacks", 0),
        "batch_size": worker.last.get("batch_size"),
        "versions": {
            "python": platform.python_version(),
            "speedtrain": __version__,
            **{name: metadata.version(name) for name in ("torch", "lightning", "timm", "numpy")},
        },
        **({"replay_of": str(worker.replay.log.parent)} if worker.replay else {}),
        "command": " ".join(map(shlex.quote, sys.orig_argv)),
        "events": [*events, *worker.messages],
    }
    return Result(described)


def _named_members(config: Config) -> list[dict[str, Any]]:
    """Of each member: its number, what it has of its own, and None for the accuracy that it may get."""
    return [
        {"number": number, "own": in_words(member), "accuracy": None} for number, member in enumerate(config.members, 1)
    ]


def class_counts(images: Images) -> list[int]:
    """How many images each class has."""
    return np.bincount(images.labels, minlength=len(images.classes)).tolist()


def add_score(result: Result, score: Score, weights: Path) -> None:
    """Adds the accuracy and its kin, and which step's weights they are of."""
    result["accuracy"], result["accuracy_interval"] = score.accuracy, score.interval
    result["balanced_accuracy"], result["macro_f1"] = score.balanced_accuracy, score.macro_f1
    result["class_accuracy"], result["scored_in"] = score.class_accuracy, score.precision
    named = zip(score.class_accuracy, result["data"]["classes"], strict=True)
    lowest, name = min((accuracy, name) for accuracy, name in named if accuracy is not None)
    result["worst_class"] = {"class": name, "accuracy": lowest}
    result["accuracy_by_size"] = by_size(score.class_accuracy, result["data"]["class_counts"])
    if score.agreement is not None:
        result["agreement_with_annotators"] = score.agreement
    facts: dict[str, Any] = load_facts(weights)
    if members := facts.get("members"):
        alone = dict(zip((member["number"] for member in members), score.of_members or [score.accuracy], strict=True))
        saved = {member["number"]: member for member in members}
        for row in result["members"]:
            if row["number"] in saved:  # not one that died early
                row |= _saved_of_member(saved[row["number"]], result["data"]["num_train"])
                row["accuracy"] = alone[row["number"]]
    result["saved_at"] = {key: facts[key] for key in ("step", "progress", "images_seen")}


def _saved_of_member(facts: dict[str, Any], num_images: int) -> dict[str, Any]:
    """What `result.json` says of a member, by the facts saved with its weights."""
    return {
        **{key: facts["network"][key] for key in ("model", "tricks")},
        "width": None if facts["network"]["width"] == "auto" else facts["network"]["width"],  # a timm model has none
        "epochs": round(facts["images_seen"] / num_images, 3),
        "images_per_second": round(_speed(facts), 1),
        **{key: facts[key] for key in ("step", "progress", "images_seen", "batch_size", "threads", "rollbacks")},
    }


def note_of_all_epochs(result: Result) -> list[str]:
    """What to say where training ended by `max_epochs`, before the budget did."""
    if not result["all_epochs"]:
        return []
    left = result["budget_seconds"] - result["wall_seconds"]
    return [
        f"training ended after {result['epochs']:.4g} epochs (max_epochs), {left:.0f} s before the budget; "
        "--set max_epochs=null uses all of it"
    ]


def warning_of_short_schedule(result: Result) -> list[str]:
    """A warning where the budget was too short for the learning rate to come down; replays are not meant to be."""
    short = result["status"] == "finished" and not result["all_epochs"] and result["saved_at"]["progress"] < ANNEALED
    if not short or "replay_of" in result:
        return []
    return [f"warning: only {result['steps']} steps fit into the budget, too few for the schedule to end"]


def read_result(path: Path) -> Result:
    """Reads a `result.json` of this or an earlier schema; its keys are those of this one."""
    result = Result(json.loads(path.read_text(encoding="utf-8")))
    if result.get("schema", 1) < 2:
        result["rollbacks"] = result.pop("repairs", 0)
        phases = result.get("phases", {})
        result["phases"] = {"unreported" if name == "untold" else name: seconds for name, seconds in phases.items()}
        result["schema"] = SCHEMA
    return result


def _phases(worker: WorkerProcess, ended: ExitStatus) -> dict[str, float]:
    """Where the wall time went. What the worker did not report is its exit, or was lost in a kill."""
    reported = (worker.done or worker.last).get("phases", {})
    rest = ended.wall_seconds - sum(reported.values())
    phases = {**reported, "exit" if worker.done else "unreported": max(0.0, rest)}
    return {name: round(seconds, 3) for name, seconds in phases.items()}


def _images_per_second(worker: WorkerProcess) -> float:
    return round(sum(map(_speed, worker.last.get("members", [worker.last]))), 1)


def _speed(facts: Mapping[str, Any]) -> float:
    """Images per second of one network, by how far its training has come."""
    seconds = facts.get("phases", {}).get("train", 0.0)
    return facts["images_seen"] / seconds if seconds else 0.0


def _device_name(config: Config) -> str:
    if config.device != "cpu":
        return f"{config.device} ({torch.cuda.get_device_name(config.device)})"
    return f"cpu ({processor_name()})"
