"""Train image classifiers fast on small data, stopped by the clock.

from speedtrain import train

result = train(budget=60, data="digits")
print(result["accuracy"])
"""

from typing import TYPE_CHECKING, Any

from speedtrain.errors import UserError

if TYPE_CHECKING:
    from speedtrain.ablation.curve import curve
    from speedtrain.ablation.sweep import ablate
    from speedtrain.ablation.tune import tune
    from speedtrain.run import train

__all__ = ["UserError", "ablate", "curve", "train", "tune"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "train":  # imported when asked for: it brings torch
        from speedtrain.run import train

        return train
    if name == "ablate":
        from speedtrain.ablation.sweep import ablate

        return ablate
    if name == "curve":
        from speedtrain.ablation.curve import curve

        return curve
    if name == "tune":
        from speedtrain.ablation.tune import tune

        return tune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
