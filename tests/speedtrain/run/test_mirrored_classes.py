"""What is said where a mirror may turn one class into another."""

import numpy as np
import pytest

from speedtrain.config import Config, resolve
from speedtrain.data import Images
from speedtrain.run.mirrored_classes import notes_on_guesses, notes_on_mirrors

CLASSES = ("left", "right", "other")


def confused(counts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and answers with these counts, rows by label."""
    pairs = [
        (label, answer) for label, row in enumerate(counts) for answer, count in enumerate(row) for _ in range(count)
    ]
    labels, answers = zip(*pairs, strict=True)
    return np.array(labels), np.array(answers)


def recipe(**options: object) -> Config:
    return resolve(budget=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([[25, 25, 0], [22, 28, 0], [0, 0, 50]], True),
        ([[25, 20, 5], [20, 25, 5], [0, 0, 50]], True),
        ([[40, 10, 0], [12, 38, 0], [0, 0, 50]], False),  # told apart
        ([[17, 17, 16], [17, 17, 16], [16, 17, 17]], False),  # nothing is told apart
        ([[50, 0, 0], [50, 0, 0], [0, 0, 50]], False),  # one is never the answer: too few images, or too short
        ([[6, 6, 0], [5, 7, 0], [0, 0, 50]], False),  # too few to say
    ],
)
def test_guesses_between_two_classes(counts: list[list[int]], said: bool) -> None:
    notes = notes_on_guesses(recipe(), *confused(counts), CLASSES)
    assert [note.startswith("warning: 'left' and 'right' are told apart no better") for note in notes] == [True] * said
    assert notes_on_guesses(recipe(without=["flip"]), *confused(counts), CLASSES) == []


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, "shift"),
        ({"test_time_augmentation.mode": "mirror"}, "mirror"),  # by name: as asked for
    ],
)
def test_without_flip_no_view_is_mirrored(settings: dict[str, str], mode: str) -> None:
    config = recipe(without=["flip"], settings=settings)
    assert config.tricks["test_time_augmentation"]["mode"] == mode
    assert recipe().tricks["test_time_augmentation"]["mode"] == "mirror+shift"


def test_without_flip_a_recipe_of_mirrors_alone_has_no_views() -> None:
    assert "test_time_augmentation" in recipe(recipe="paper").tricks
    assert "test_time_augmentation" not in recipe(recipe="paper", without=["flip"]).tricks


def test_a_mirror_taken_out_is_said() -> None:
    images = Images("a", np.zeros((2, 32, 32, 3), np.uint8), np.arange(2), ("a", "b"))
    (note,) = notes_on_mirrors(recipe(without=["flip"]), images, ["flip"])
    assert "no mirror images either (it is in mode shift)" in note
    (note,) = notes_on_mirrors(recipe(recipe="paper", without=["flip"]), images, ["flip"])
    assert "(it is off)" in note
