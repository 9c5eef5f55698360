"""Options that change nothing are said."""

from typing import Any

import pytest

from speedtrain.config import resolve
from speedtrain.run.checks_before_start import unused_options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data_root": "there", "data": "digits"}, "--data-root has no effect on --data digits"),
        ({"data_root": "there", "data": "torchvision:SVHN"}, None),
        ({"data_root": "there"}, None),
        ({"columns": {"label": "breed"}, "data": "photos"}, "--columns has no effect on --data photos"),
        ({"columns": {"label": "breed"}, "data": "Labels.CSV"}, None),
        ({"columns": {"label": "breed"}, "data": "photos", "test": "test.csv"}, None),
        ({"columns": {"label": "breed"}, "data": "arrays"}, None),  # may be a data frame
        ({"model": "timm:resnet18", "width": 8}, "width has no effect on timm:resnet18"),
        ({"model": "timm:resnet18.a1_in1k"}, "a1_in1k names pretrained weights, which are not used"),
    ],
)
def test_options_without_effect(options: dict[str, Any], said: str | None) -> None:
    warnings = unused_options(resolve(budget=9, **options), options)
    assert len(warnings) == (said is not None)
    assert all(warning.startswith("warning: ") and str(said) in warning for warning in warnings)
