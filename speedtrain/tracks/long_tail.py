"""Classes of unequal size."""

import numpy as np

from speedtrain.errors import UserError


def tail_counts(available: np.ndarray, imbalance: float) -> np.ndarray:
    """How many images each class keeps: ⌊n · r^(−c/(K−1))⌋ of class c = 0 … K−1, with the largest n that there is.

    Args:
        available: images of each class, int [K].
        imbalance: r, how many times as large the first class is as the last.

    Returns:
        int64 [K].

    Raises:
        UserError: r is below 1, or so large that a class would have no image.
    """
    if not 1 <= imbalance < float("inf"):
        raise UserError(f"--imbalance must be 1 or more, got {imbalance:g}")
    last = max(1, len(available) - 1)
    shares = imbalance ** (-np.arange(len(available)) / last)
    largest = int((available / shares).min() + 1e-9)
    counts = np.floor(largest * shares + 1e-9).astype(np.int64)
    if counts.min() < 1:
        raise UserError(
            f"--imbalance {imbalance:g}: the last class would have no image, as the first has {largest}; "
            f"at most {largest} is possible"
        )
    return counts


def keep_tail(labels: np.ndarray, counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws so many images of each class; returns their indices in ascending order, int64."""
    kept = [
        generator.permutation(np.flatnonzero(labels == number))[:count] for number, count in enumerate(counts.tolist())
    ]
    return np.sort(np.concatenate(kept))
