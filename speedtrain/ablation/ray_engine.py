"""The Ray engine: trials on a Ray cluster. Each asks Ray for its cores, or for a GPU.

Images and results travel through Ray; the nodes need no shared disk.
"""

import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from speedtrain.ablation.trial import Row, Trial, failed_row, run_trial
from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.ray_cluster import connect, living_nodes
from speedtrain.run.plan import measure_plan

GPUS_PER_TRIAL = 1
"""GPUs that a trial asks for where the cluster has any. A run trains on one GPU."""

MAX_RETRIES = 5
"""How often Ray starts a trial again on another node because its node was lost."""


class RayEngine:
    """A Ray cluster whose nodes have speedtrain installed. Ray decides where and when each trial runs. An `Engine`.

    Args:
        config: of a trial. Its `threads` is the number of cores per trial; None: all cores of the smallest node.
        address: as for `ray.init`. Default: $RAY_ADDRESS, or a new cluster of this machine alone.

    Raises:
        UserError: Ray is not installed, no cluster answers at the address, or no node is large enough.
    """

    def __init__(self, config: Config, address: str | None = None) -> None:
        self._ray, self._started_here = connect(address)
        nodes = [node["Resources"] for node in living_nodes(self._ray)]
        gpu_nodes = [node for node in nodes if node.get("GPU", 0) >= GPUS_PER_TRIAL]
        if config.device.startswith("cuda") and not gpu_nodes:
            raise UserError(f"--device {config.device}: no node of the Ray cluster has a GPU")
        on_gpu = bool(gpu_nodes) and config.device != "cpu"
        nodes = gpu_nodes if on_gpu else nodes
        if not nodes:
            raise UserError("--engine ray: no node of the cluster has a core to give")
        gpus = GPUS_PER_TRIAL if on_gpu else 0
        cores = [int(node["CPU"] * gpus / node["GPU"] if on_gpu else node["CPU"]) for node in nodes]
        self.threads = config.threads or max(1, min(cores))
        slots = [min(node["CPU"] // self.threads, node["GPU"] // gpus if on_gpu else np.inf) for node in nodes]
        self.at_once = int(sum(slots))
        if self.at_once == 0:
            raise UserError(f"--threads {self.threads}: the largest node of the Ray cluster has {max(cores)} cores")
        gpu = " and a GPU" if on_gpu else ""
        self.where = f"on a Ray cluster of {len(nodes)} nodes, each with {self.threads} cores{gpu} to itself"
        self._resources: dict[str, Any] = {"num_cpus": self.threads, "num_gpus": gpus, "max_retries": MAX_RETRIES}
        self._stored: dict[str, Any] = {}

    def plan(self, config: Config, train: Images) -> dict[str, Any]:
        """The planner's choices for a configuration, measured on a node of the cluster."""
        settings = asdict(replace(config, threads=self.threads))
        return self._ray.get(self._ray.remote(**self._resources)(_plan_on_node).remote(settings, train))

    def run(self, trials: Sequence[Trial]) -> Generator[Row, None, None]:
        """Runs trials and saves each result.

        Yields:
            The results as they come. Closing the generator ends the trials that still run.
        """
        task = self._ray.remote(**self._resources)(_run_on_node)
        waiting = {
            task.remote(
                trial.variant,
                trial.folder.parts[-2:],
                asdict(trial.config),
                self._store(trial.config.data),
                self._store(str(trial.config.test)),
            ): trial
            for trial in trials
        }
        try:
            while waiting:
                (finished,), _ = self._ray.wait(list(waiting), num_returns=1)
                trial = waiting.pop(finished)
                try:
                    row, files = self._ray.get(finished)
                except self._ray.exceptions.RayError as error:
                    row, files = failed_row(trial, f"Ray: {str(error).strip().splitlines()[-1]}"), {}
                for name, content in files.items():
                    path = trial.folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(path, content)
                trial.folder.mkdir(parents=True, exist_ok=True)
                yield trial.save_result(row)
        finally:
            for reference in waiting:
                self._ray.cancel(reference)

    def _store(self, path: str) -> Any:
        """A reference to a file's content in Ray's object store. Every node fetches the content once."""
        if path not in self._stored:
            self._stored[path] = self._ray.put(Path(path).read_bytes())
        return self._stored[path]

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._started_here:
            self._ray.shutdown()


def _plan_on_node(settings: Mapping[str, Any], train: Images) -> dict[str, Any]:
    """Measures the plan; runs on a node."""
    # Ray hands over arrays as read-only memory
    writable = train.subset(np.arange(len(train.labels)))
    return measure_plan(Config(**settings), writable)


def _run_on_node(
    variant: str, folder_names: Sequence[str], settings: Mapping[str, Any], train: bytes, test: bytes
) -> tuple[Row, dict[str, bytes]]:
    """Runs one trial in a temporary folder; runs on a node.

    Returns:
        The result, and the content of the trial's files by their relative paths.
    """
    with tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as scratch:
        data = Path(scratch, "data")
        data.mkdir()
        (data / "train.npz").write_bytes(train)
        (data / "test.npz").write_bytes(test)
        config = replace(Config(**settings), data=str(data / "train.npz"), test=str(data / "test.npz"))
        folder = Path(scratch, "trials", *folder_names)
        row = run_trial(Trial(variant, folder, config))
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return row, files
