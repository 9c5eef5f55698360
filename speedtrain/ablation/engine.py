"""What runs the trials of a sweep: the interface of an engine, and the choice of one by its name.

The engines themselves: `local_engine.py` (this machine) and `ray_engine.py` (a Ray cluster).
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from speedtrain.ablation.trial import Row, Trial
from speedtrain.checked_types import nearest
from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.errors import UserError


class Engine(Protocol):
    """Runs trials.

    Attributes:
        at_once: how many trials run at a time.
        threads: how many threads each trial has.
        where: where the trials run, in words for a report.
    """

    at_once: int
    threads: int
    where: str

    def plan(self, config: Config, train: Images) -> dict[str, Any]:
        """The planner's choices for a configuration, measured where the trials run."""
        ...

    def run(self, trials: Sequence[Trial]) -> Generator[Row, None, None]:
        """Runs trials and saves each result; yields the results as they come."""
        ...


@contextmanager
def make_engine(name: str, config: Config, workers: int, address: str | None) -> Iterator[Engine]:
    """The engine of that name. Its resources are released at the end of the `with` block.

    Args:
        name: `local` or `ray`.
        config: of a trial. All trials use its `device` and `threads`.
        workers: trials at a time, for `local`.
        address: of the cluster, for `ray`. None: see `RayEngine`.

    Raises:
        UserError: no such engine, or an option that does not fit it.
    """
    if name == "local":
        if address is not None:
            raise UserError("--address is of a Ray cluster; say --engine ray too")
        from speedtrain.ablation.local_engine import LocalEngine

        yield LocalEngine(config, workers)
    elif name == "ray":
        if not config.from_random:
            raise UserError("--engine ray: trials elsewhere cannot start from given weights; use --engine local")
        if workers != 1:
            raise UserError("--workers is for --engine local; Ray runs as many trials as fit, of --threads cores each")
        from speedtrain.ablation.ray_engine import RayEngine

        with RayEngine(config, address) as engine:
            yield engine
    else:
        raise UserError(f"--engine {name}: no such engine{nearest(name, ('local', 'ray'))}")
