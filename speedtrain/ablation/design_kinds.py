"""The kinds of design: which sets of tricks are trained, and which questions they answer. One entry per kind.

A cell is a set of varied tricks that are on. A question gives a weight to each of its cells; the weighted sum of their
scores is the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

Cell = frozenset[str]

Question = tuple[str, Mapping[Cell, float]]
"""What is added, in words, and the weight of each cell. The weights sum to zero."""

NONE: Cell = frozenset()


def _drop_one_cells(tricks: Sequence[str]) -> list[Cell]:
    everything = frozenset(tricks)
    return [everything, *(everything - {name} for name in tricks)]


def _cells_up_to(size: int, tricks: Sequence[str]) -> list[Cell]:
    """All sets of at most `size` tricks, the smallest first."""
    return [frozenset(chosen) for k in range(min(size, len(tricks)) + 1) for chosen in combinations(tricks, k)]


def _gain_over_dropping(tricks: Sequence[str]) -> list[Question]:
    everything = frozenset(tricks)
    return [(name, {everything: 1.0, everything - {name}: -1.0}) for name in tricks]


def _gain_over_none(tricks: Sequence[str]) -> list[Question]:
    return [(name, {frozenset({name}): 1.0, NONE: -1.0}) for name in tricks]


def _gains_and_interactions(tricks: Sequence[str]) -> list[Question]:
    """Also what two tricks together gain beyond the sum of what each gains alone."""
    interactions: list[Question] = [
        (f"{a} × {b}", {frozenset({a, b}): 1.0, frozenset({a}): -1.0, frozenset({b}): -1.0, NONE: 1.0})
        for a, b in combinations(tricks, 2)
    ]
    return [*_gain_over_none(tricks), *interactions]


def _main_effects(tricks: Sequence[str]) -> list[Question]:
    """The mean with a trick minus the mean without it: every trial counts for every trick."""
    cells = _cells_up_to(len(tricks), tricks)
    half = len(cells) / 2
    return [(name, {cell: (1 if name in cell else -1) / half for cell in cells}) for name in tricks]


def _name_of_missing(cell: Cell, tricks: Sequence[str]) -> str:
    missing = [name for name in tricks if name not in cell]
    return f"without {missing[0]}" if missing else "reference"


def _name_of_present(cell: Cell, tricks: Sequence[str]) -> str:
    return " + ".join(name for name in tricks if name in cell) or "reference"


@dataclass(frozen=True)
class DesignKind:
    """One kind of design. Every function takes the varied tricks, in order.

    Attributes:
        description: what is trained, in words.
        cells: the sets of tricks that are trained; the reference first.
        questions: what the cells answer.
        count: number of tricks → number of cells. Known before the cells are made, which may be very many.
        name: a cell and the tricks → the name of its variant.
    """

    description: str
    cells: Callable[[Sequence[str]], list[Cell]]
    questions: Callable[[Sequence[str]], list[Question]]
    count: Callable[[int], int]
    name: Callable[[Cell, Sequence[str]], str] = _name_of_present


KINDS: dict[str, DesignKind] = {
    "drop-one": DesignKind(
        "all varied tricks, and all but each",
        cells=_drop_one_cells,
        questions=_gain_over_dropping,
        count=lambda tricks: 1 + tricks,
        name=_name_of_missing,
    ),
    "add-one": DesignKind(
        "none of the varied tricks, and each alone",
        cells=lambda tricks: _cells_up_to(1, tricks),
        questions=_gain_over_none,
        count=lambda tricks: 1 + tricks,
    ),
    "all-subsets": DesignKind(
        "every combination",
        cells=lambda tricks: _cells_up_to(len(tricks), tricks),
        questions=_main_effects,
        count=lambda tricks: 2**tricks,
    ),
    "pairs": DesignKind(
        "none of the varied tricks, each alone, and each two together",
        cells=lambda tricks: _cells_up_to(2, tricks),
        questions=_gains_and_interactions,
        count=lambda tricks: 1 + tricks + tricks * (tricks - 1) // 2,
    ),
}
