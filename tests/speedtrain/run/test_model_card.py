"""The model card says what `result.json` says."""

from typing import Any

import yaml

from speedtrain.run.model_card import model_card
from speedtrain.run.result import Result


def a_result(**changes: Any) -> Result:
    return Result(
        {
            "status": "killed",
            "budget_seconds": 60.0,
            "wall_seconds": 59.9,
            "accuracy": 0.95,
            "accuracy_interval": (0.91, 0.97),
            "balanced_accuracy": 0.7,
            "macro_f1": 0.65,
            "class_accuracy": [0.99, 0.41, None],
            "accuracy_on": "holdout",
            "num_test_images": 200,
            "data": {
                "name": "my *photos*",
                "num_train": 820,
                "num_classes": 3,
                "classes": ["cat | big", "<b>dog</b>", "owl"],
                "class_counts": [760, 59, 1],
                "sha256": "ab12",
                "notes": ["photos: 3 of 820 images were squashed"],
            },
            "test_data": {"name": "my *photos*", "class_counts": [190, 10, 0]},
            "tricks": {"sam": {}, "flip": {}},
            "plan": {"model": "resnet9", "width": 24, "side": 64, "precision": "fp32"},
            "epochs": 12.5,
            "all_epochs": False,
            "seed": 3,
            "device": "cpu (some processor)",
            "threads": 2,
            "events": ["warning: two test images are nearly the same as a training image", "precision fp32"],
            **changes,
        }
    )


def test_what_it_says() -> None:
    text = model_card(a_result())
    _, head, body = text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{NO-BREAK SPACE}", " ").split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["pipeline_tag"] == "image-classification"
    metrics = {metric["type"]: metric["value"] for metric in front["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {"accuracy": 0.95, "balanced_accuracy": 0.7, "f1": 0.65}
    for words in (
        "**95.0 %** (95 % interval 91.0 % to 97.0 %)",
        "200 images held out of the training data",
        "width 24, on images of 64 pixels a side, in fp32",
        "12.5 epochs",
        "sam, flip",
        "Seed 3",
        "Training was killed before its planned end.",
        "3 of 820 images were squashed",
        "The classes have 1 to 760 training images.",
        "two test images are nearly the same",
    ):
        assert words in body, words
    rows = [line for line in body.splitlines() if line.startswith("|")][2:]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["760", "190", "99.0 % |"],
        ["59", "10", "41.0 % |"],
        ["1", "0", "no test images |"],
    ]
    assert "<b>" not in body  # names are text, not HTML
    assert "precision fp32\n" not in body


def test_what_does_not_hold_is_not_said() -> None:
    text = model_card(a_result(status="finished", accuracy_on="test", events=[]))
    assert "held out" not in text
    assert "before its planned end" not in text
    assert "the same collection" not in text
    assert "all its epochs" not in text
    assert "as `finished`, after all its epochs (`max_epochs`)." in model_card(
        a_result(status="finished", all_epochs=True)
    )
