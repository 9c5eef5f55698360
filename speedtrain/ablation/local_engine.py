"""The local engine: trials on this machine, each on a share of its cores."""

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from speedtrain.ablation.trial import Row, Trial, run_trial
from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.errors import UserError
from speedtrain.machine import core_numbers
from speedtrain.run.plan import measure_plan
from timing import Guarded


class LocalEngine:
    """This machine, its cores divided among `workers` trials at a time. An `Engine`.

    Args:
        config: of a trial. Its `threads` is the number of threads per trial; None: as many as the share has cores.
        workers: trials at a time. Default: 1.

    Raises:
        UserError: more workers than cores, more threads than a share has cores, or several workers and a GPU.
    """

    def __init__(self, config: Config, workers: int = 1) -> None:
        self._shares = split_cores(workers)
        if config.device not in ("auto", "cpu") or (config.device != "cpu" and workers > 1):
            from speedtrain.device import find_device

            if find_device(config.device)[0] != "cpu" and workers > 1:
                raise UserError("--workers shares out CPU cores, not the GPU; use --device cpu, or one worker")
        self.at_once = workers
        self.threads = config.threads or len(self._shares[0])
        if workers > 1 and self.threads > len(self._shares[0]):
            raise UserError(f"--threads {self.threads}: {workers} workers get {len(self._shares[0])} cores each")
        self.where = "one at a time" if workers == 1 else f"{workers} at a time on shares of the cores"

    def plan(self, config: Config, train: Images) -> dict[str, Any]:
        """The planner's choices for a configuration on this machine."""
        return measure_plan(config, train)

    def run(self, trials: Sequence[Trial]) -> Generator[Row, None, None]:
        """Runs trials, one at a time on each share of the cores, and saves each result.

        Yields:
            The results as they come. Closing the generator ends the trials that still run.

        Raises:
            UserError: a signal from outside ended a trial early.
        """
        free_shares = list(self._shares)
        running: set[Guarded] = set()
        stopping = threading.Event()

        def work(trial: Trial) -> tuple[Trial, Row] | None:
            if stopping.is_set():
                return None
            share = free_shares.pop()
            mine: list[Guarded] = []

            def on_start(process: Guarded) -> None:
                mine.append(process)
                running.add(process)
                if stopping.is_set():
                    process.interrupt()

            try:
                return trial, run_trial(trial, share, on_start)
            finally:
                running.difference_update(mine)
                free_shares.append(share)

        with ThreadPoolExecutor(len(self._shares)) as pool:
            futures = [pool.submit(work, trial) for trial in trials]
            try:
                for future in as_completed(futures):
                    finished = future.result()
                    if finished is None:
                        continue
                    trial, row = finished
                    if row["status"] == "interrupted":
                        raise UserError(f"{trial.variant}, seed {trial.config.seed}: interrupted; go on with --resume")
                    yield trial.save_result(row)
            finally:
                stopping.set()
                for process in list(running):
                    process.interrupt()


def split_cores(workers: int) -> list[list[int]]:
    """The numbers of this process's cores in `workers` equal shares.

    Raises:
        UserError: the machine has fewer cores than workers.
    """
    cores = core_numbers()
    if not 1 <= workers <= len(cores):
        raise UserError(f"--workers {workers}: this machine has {len(cores)} cores to share out")
    each = len(cores) // workers
    return [cores[number * each : (number + 1) * each] for number in range(workers)]
