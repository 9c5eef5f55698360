"""Has the machine changed between a judging and a late submission? A submission of before is run again beside it."""

from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.judge.journal import Entry, Journal


def compare_controls(
    out: Path, journal: Journal, event: Entry, regime: str, labels: np.ndarray
) -> dict[str, Any] | None:
    """Compares the runs of a submission of before with its runs beside a late one.

    Args:
        out: folder of the board.
        journal: of the board.
        event: the late submission's line.
        regime: the training set.
        labels: labels of the test images, int64 [N].

    Returns:
        `submission`, the mean `accuracy_before` and `accuracy_beside`, and `p`, of Welch's t-test over the runs (None
        with fewer than two runs on a side). None where nothing was run again.
    """
    from scipy import stats

    control = event["control"]
    if not control:
        return None
    before: dict[int, float] = {}
    beside: dict[int, float] = {}
    for run in journal.runs:
        if run["submission"] != control or run.get("regime", "") != regime or run["repeat"]:
            continue
        accuracy = 0.0
        if not run["failed"]:
            predicted = np.load(out / "private" / "predictions" / run["predictions"], allow_pickle=False)
            accuracy = float((predicted == labels).mean())
        if run.get("control_for") == event["submission"]:
            beside[run["run"]] = accuracy
        elif "control_for" not in run:
            before[run["run"]] = accuracy
    if not before or not beside:
        return None
    one, other = np.array(list(before.values())), np.array(list(beside.values()))
    p = None
    if min(len(one), len(other)) > 1:
        if np.ptp(one) == np.ptp(other) == 0:
            p = float(one[0] == other[0])
        else:
            p = float(stats.ttest_ind(one, other, equal_var=False).pvalue)
    return {
        "submission": control,
        "accuracy_before": float(one.mean()),
        "accuracy_beside": float(other.mean()),
        "p": p,
    }
