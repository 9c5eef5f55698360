"""Train image classifiers fast on small data, stopped by the clock.

from speedtrain import load, train

result = train(budget=60, data="digits")
print(result["accuracy"])

model = load(result["out"])
print(model.predict("photo.jpg").top(3))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from speedtrain.errors import UserError

if TYPE_CHECKING:
    from speedtrain.ablation.ablate import ablate
    from speedtrain.ablation.curve import curve
    from speedtrain.ablation.tune import tune
    from speedtrain.model.load import load
    from speedtrain.run.api import train

__all__ = ["UserError", "ablate", "curve", "load", "train", "tune"]
__version__ = "0.1.0"


_PLACES = {
    "ablate": "ablation.ablate",
    "curve": "ablation.curve",
    "load": "model.load",
    "train": "run.api",
    "tune": "ablation.tune",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:  # imported when asked for: they bring torch
        return getattr(import_module(f"speedtrain.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
