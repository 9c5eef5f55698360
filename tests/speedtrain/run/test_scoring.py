"""The scores of a run, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from speedtrain.run.scoring import by_size, of_each_class


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("missing", [None, 0, 4])
def test_balanced_accuracy_and_macro_f1(seed: int, missing: int | None) -> None:
    """Also where the test images lack a class that is predicted nevertheless."""
    chance = np.random.default_rng(seed)
    labels = chance.choice(5, 300, p=[0.6, 0.2, 0.1, 0.06, 0.04])
    labels = labels[labels != missing]
    predicted = np.where(chance.random(len(labels)) < 0.6, labels, chance.integers(0, 5, len(labels)))
    recall, f1 = of_each_class(labels, predicted, 5)
    there = np.unique(labels)
    assert len(recall) == len(there)
    recall_of = [(predicted[labels == label] == label).mean() for label in there]
    np.testing.assert_allclose(recall, recall_of)
    if missing is None:
        assert recall.mean() == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert f1.mean() == pytest.approx(f1_score(labels, predicted, labels=there, average="macro"))


def test_accuracy_by_the_size_of_classes() -> None:
    """More than 100 images are many, fewer than 20 few; a class without test images does not count."""
    found = by_size([0.9, 0.8, 0.6, 0.4, None, 0.1], [5000, 101, 100, 20, 60, 19])
    assert found == {"many": pytest.approx(0.85), "medium": pytest.approx(0.5), "few": pytest.approx(0.1)}
    assert by_size([0.9, 0.8], [500, 400]) is None
    assert by_size([0.9, None], [500, 4]) is None
    assert by_size([0.9, 0.2], [500, 4]) == {"many": 0.9, "few": 0.2}
