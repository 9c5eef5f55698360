"""Has the machine changed between a judging and a late submission? A submission of before is run again beside it."""

import math
from collections.abc import Sequence
from typing import Any

from speedtrain.judge.ranking import Measure
from speedtrain.judge.scores import Scored


def compare_controls(
    control: str, before: Sequence[Scored], beside: Sequence[Scored], measure: Measure
) -> dict[str, Any] | None:
    """Compares the runs of a submission of before with its runs beside a late one.

    Args:
        control: its name on the board.
        before: its runs that count.
        beside: its runs beside the late submission.
        measure: what decides in the competition.

    Returns:
        `submission`; the score `before` and `beside` (None for a target that is never reached); and `p`, of the test
        over the runs (None with fewer than two runs on a side). None where nothing was run again.
    """
    if not before or not beside:
        return None
    scores = [measure.value(runs).value for runs in (before, beside)]
    one, other = (score if math.isfinite(score) else None for score in scores)
    p = measure.compare(beside, before).p_runs
    return {"submission": control, "before": one, "beside": other, "p": p}
