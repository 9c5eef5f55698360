"""k-means: points in groups around their means."""

import torch
from torch import Tensor
from torch.nn import functional as F

SEED = 0
"""Of the draws of the first centres."""


def first_centres(points: Tensor, count: int) -> Tensor:
    """Centres that k-means may start from, by k-means++ (Arthur and Vassilvitskii, 2007): [count, D].

    Each is one of the points, drawn with a probability in proportion to the squared distance from the nearest centre
    before it; the first one is any. The draws have a seed of their own, and are made on the CPU.

    Args:
        points: [N, D], N ≥ 1. Of fewer than `count` different ones, some are taken again.
        count: of the centres.
    """
    draws = torch.rand(count, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    squares = points.square().sum(dim=1)
    distances = torch.ones_like(squares)
    places: list[int] = []
    for draw in draws:
        shares = distances.cpu().double().cumsum(dim=0)
        place = int(torch.searchsorted(shares, draw * shares[-1:], right=True))
        places.append(min(place, len(points) - 1))  # all distances may be 0
        centre = points[places[-1]]
        from_it = (squares - 2 * (points @ centre) + centre.square().sum()).clamp(min=0)
        distances = from_it if len(places) == 1 else torch.minimum(distances, from_it)
    return points[places]


def k_means(points: Tensor, centres: Tensor, iterations: int) -> Tensor:
    """Lloyd's algorithm: each centre moves to the mean of the points that it is nearest to, again and again: [K, D].

    A centre that is nearest to no point stays where it is.

    Args:
        points: [N, D].
        centres: to start from, [K, D].
        iterations: at the most; it ends when no point changes its centre.
    """
    nearest = torch.full((len(points),), -1, device=points.device)
    for _ in range(iterations):
        before, nearest = nearest, nearest_centre(points, centres)
        if torch.equal(before, nearest):
            break
        members = F.one_hot(nearest, len(centres)).to(points)
        sizes = members.sum(dim=0).unsqueeze(1)
        centres = torch.where(sizes > 0, members.T @ points / sizes.clamp(min=1), centres)
    return centres


def nearest_centre(points: Tensor, centres: Tensor) -> Tensor:
    """The number of the centre [K, D] that is nearest to each point [N, D], int64 [N]."""
    # |x − c|² without |x|², which is the same for all centres; around their mean, so that little is lost by rounding
    middle = centres.mean(dim=0)
    points, centres = points - middle, centres - middle
    return torch.addmm(centres.square().sum(dim=1), points, centres.T, alpha=-2).argmin(dim=1)
