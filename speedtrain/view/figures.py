"""Figures: one palette, one style, written whole.

matplotlib is slow to import, so it is imported when the first figure is drawn.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speedtrain.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
LEMON = "#f0e442"
GREY, LIGHT_GREY = "#5b6570", "#b8bec6"
SERIES = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)
"""Colours of lines in one plot, in this order."""
_PHASES = (YELLOW, SKY, GREEN, PINK, ORANGE, LEMON, LIGHT_GREY)

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#e0e0e0",
    "legend.frameon": False,
}


def phase_colours(phases: Iterable[str]) -> dict[str, str]:
    """A colour for each phase of a run: blue for `train`, the other colours in order for the rest."""
    others = [phase for phase in phases if phase != "train"]
    return {phase: _PHASES[number % len(_PHASES)] for number, phase in enumerate(others)} | {"train": BLUE}


@contextmanager
def figure(path: Path, width: float, height: float, style: Mapping[str, Any] | None = None) -> Iterator["Figure"]:
    """An empty figure to draw on; written to `path` as PNG at the end, in one step.

    A bare Figure draws by Agg and leaves alone a notebook's backend.

    Args:
        width, height: inches.
        style: matplotlib settings beside `STYLE`.

    Raises:
        OSError: it cannot be written.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE | dict(style or {})]):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        content = io.BytesIO()
        drawn.savefig(content, dpi=140, format="png")
    write_atomic(path, content.getvalue())
