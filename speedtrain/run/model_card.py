"""`model_card.md`: what a run's model is, for those who did not train it. Everything in it stands in `result.json`.

The head of the file is what model hubs read: https://huggingface.co/docs/hub/model-cards
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from speedtrain.files import write_atomic
from speedtrain.run.result import Result
from speedtrain.view import markdown
from speedtrain.view.html import percent

SHOWN = 200
"""Classes that the table has a line for."""
FEW = 30
"""Test images of a class below which its accuracy says little."""


def write_model_card(run: Path, result: Result) -> None:
    """Writes the card of a run that was scored.

    Raises:
        OSError: it could not be written.
    """
    write_atomic(run / "model_card.md", model_card(result).encode())


def model_card(result: Result) -> str:
    """The card's text."""
    data, test, plan = result["data"], result["test_data"], result["plan"]
    low, high = result["accuracy_interval"]
    on = "images held out of the training data" if result["accuracy_on"] == "holdout" else "test images"
    images = f"{result['num_test_images']} {on}"
    lines = ["---", yaml.safe_dump(_head(result), sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    lines += [f"# A classifier of {data['num_classes']} classes, trained on {_code(data['name'])}", ""]
    lines += [
        f"It says which of {data['num_classes']} classes an image shows. Its accuracy is "
        f"**{percent(result['accuracy'])}** (95 % interval {percent(low)} to {percent(high)}) on {images} of "
        f"{_code(test['name'])}. The mean over the classes is {percent(result['balanced_accuracy'])}.",
        "",
        "## Use",
        "",
        "```python",
        "from speedtrain import load",
        "",
        'model = load("weights.safetensors")',
        'print(model.predict("photo.jpg").top(3))',
        "```",
        "",
        "## Data",
        "",
    ]
    lines += [
        f"{data['num_train']} training images of {_code(data['name'])} (SHA-256 of images and labels "
        f"`{data['sha256']}`).",
        "",
    ]
    lines += [f"- {markdown.escape(note)}" for note in data["notes"]] + ([""] if data["notes"] else [])
    lines += _classes(result)
    lines += ["", "## Training", ""]
    width = f", width {plan['width']}" if plan.get("width") else ""
    networks = f"a {plan['model']}{width}"
    if members := [member for member in result.get("members", []) if member["accuracy"] is not None]:
        widths = [f" of width {member['width']}" if member["width"] else "" for member in members]
        pairs = zip(members, widths, strict=True)
        each = ", ".join(f"{member['model']}{width} ({member['own']})" for member, width in pairs)
        networks = f"{len(members)} networks whose answers are averaged: {each}"
    after = ", after all its epochs (`max_epochs`)" if result["all_epochs"] else ""
    lines += [
        f"Training began {_start(result.get('started_from'))}. It took {result['wall_seconds']:.0f} s of a budget of "
        f"{result['budget_seconds']:g} s, on "
        f"{_code(result['device'])} with {result['threads']} threads: {result['epochs']:.1f} epochs of "
        f"{networks}, on images of {plan.get('side', 32)} pixels a side, in {plan['precision']}. "
        f"It ended as `{result['status']}`{after}. "
        f"Tricks: {', '.join(result['tricks']) or 'none'}. Seed {result['seed']}.",
        "",
        "## Limits",
        "",
    ]
    lines += [f"- {limit}" for limit in _limits(result)]
    return "\n".join(lines) + "\n"


def _start(started_from: Mapping[str, Any] | None) -> str:
    """What training started from."""
    if started_from is None:
        return "from random weights"
    match started_from["kind"]:
        case "run":
            words = f"from the weights of a {started_from['network']} that was trained before"
            if started_from["started_from"]:
                words += f" ({_start(started_from['started_from'])})"
        case "timm":
            licence = f", licence {started_from['licence']}" if started_from["licence"] else ""
            words = f"from the pretrained weights {_code(started_from['weights'])} of timm{licence}"
        case _:
            words = f"from pretrained weights for {_code(started_from['network'])}, of a file"
    words += f", with {'its head' if started_from['head'] == 'kept' else 'a new head'}"
    sha256 = started_from.get("file_sha256")
    return f"{words} (SHA-256 of the file: `{sha256}`)" if sha256 else words


def _code(text: str) -> str:
    """A name as it is, in which nothing is Markdown or HTML."""
    return f"`{' '.join(text.replace('`', ' ').split())}`"


def _head(result: Result) -> dict[str, Any]:
    """What model hubs read."""
    scores = {
        "accuracy": result["accuracy"],
        "balanced_accuracy": result["balanced_accuracy"],
        "f1": result["macro_f1"],
    }
    metrics = [{"type": name, "value": round(value, 4)} for name, value in scores.items()]
    name = f"{result['plan']['model']} on {result['data']['name']}"
    task = {"type": "image-classification"}
    scratch = [] if result.get("started_from") else ["trained-from-scratch"]
    scored = {"task": task, "dataset": {"name": result["test_data"]["name"], "type": "image"}, "metrics": metrics}
    return {
        "library_name": "speedtrain",
        "pipeline_tag": task["type"],
        "tags": ["image-classification", "speedtrain", *scratch],
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [scored]}],
    }


def _classes(result: Result) -> list[str]:
    """A table: images of each class, and how many of its test images are recognised."""
    rows = zip(
        result["data"]["classes"],
        result["data"]["class_counts"],
        result["test_data"]["class_counts"],
        result["class_accuracy"],
        strict=True,
    )
    shown = [
        [markdown.escape(name), str(train), str(test), "no test images" if share is None else percent(share)]
        for name, train, test, share in rows
    ][:SHOWN]
    lines = markdown.table(["class", "training images", "test images", "recognised"], shown)
    more = result["data"]["num_classes"] - len(shown)
    return lines + (["", f"and {more} more classes, in `result.json`."] if more else [])


def _limits(result: Result) -> list[str]:
    """What a user has to know, as far as it shows in the result."""
    limits = ["It answers with one of its classes whatever an image shows, and its probabilities are not calibrated."]
    if result["accuracy_on"] == "holdout":
        limits.append(
            "The test images come from the same collection as the training images. On images from elsewhere it may be "
            "less accurate."
        )
    if seen := (result.get("started_from") or {}).get("seen_test_images"):
        limits.append(
            f"{seen} of {result['num_test_images']} test images were training images of the weights that training "
            "started from. On other images it is less accurate."
        )
    counts = result["test_data"]["class_counts"]
    few = [
        markdown.escape(name) for name, count in zip(result["data"]["classes"], counts, strict=True) if 0 < count < FEW
    ]
    if few:
        names = ", ".join(few[:20]) + (f" and {len(few) - 20} more" if len(few) > 20 else "")
        limits.append(f"Fewer than {FEW} test images: {names}. The accuracy of these classes is known only roughly.")
    train = result["data"]["class_counts"]
    if max(train) > 2 * min(train):
        limits.append(
            f"The classes have {min(train)} to {max(train)} training images. It may prefer those that have more."
        )
    if result["status"] != "finished":
        limits.append(f"Training was {result['status']} before its planned end.")
    limits += [markdown.escape(event) for event in result["events"] if event.startswith("warning")]
    return limits
