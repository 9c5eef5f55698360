"""Trials on a Ray cluster: each asks for its cores, or its GPU; results come back by Ray, not by a shared disk."""

import logging
import socket
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
from speedtrain.run.run import measure_plan

TRIES = 5
"""Times that a trial is begun again elsewhere because the machine below it went away."""

PATIENCE = 10.0
"""Seconds to wait for the cluster's address to answer."""


class RayCluster:
    """A Ray cluster whose nodes have speedtrain installed. Which trial runs where and when is Ray's business.

    Args:
        config: of a trial; `threads` is how many cores each asks for, by default all of the smallest node.
        address: as `ray.init` takes it; default: $RAY_ADDRESS, or a cluster of this machine alone.

    Raises:
        UserError: Ray is not installed, there is no cluster at that address, or no node is large enough.
    """

    def __init__(self, config: Config, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise UserError('--engine ray: Ray is not installed; pip install "speedtrain[ray]"') from None
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                _knock(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
                reason = str(error).partition("\n")[0]
                raise UserError(f"--address {address}: no Ray cluster can be reached there ({reason})") from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
        if config.device == "cuda" and not gpus:
            raise UserError("--device cuda: no node of the Ray cluster has a GPU")
        on_gpu = bool(gpus) and config.device != "cpu"
        nodes = gpus if on_gpu else nodes
        if not nodes:
            raise UserError("--engine ray: no node of the cluster has a core to give")
        cores = [int(node["CPU"] / node["GPU"] if on_gpu else node["CPU"]) for node in nodes]
        self.threads = config.threads or max(1, min(cores))
        slots = [min(node["CPU"] // self.threads, node.get("GPU", 0) if on_gpu else np.inf) for node in nodes]
        self.at_once = int(sum(slots))
        if self.at_once == 0:
            raise UserError(f"--threads {self.threads}: the largest node of the Ray cluster has {max(cores)} cores")
        gpu = " and a GPU" if on_gpu else ""
        self.where = f"on a Ray cluster of {len(nodes)} nodes, each with {self.threads} cores{gpu} to itself"
        self._needs: dict[str, Any] = {"num_cpus": self.threads, "num_gpus": int(on_gpu), "max_retries": TRIES}
        self._stored: dict[str, Any] = {}

    def plan(self, config: Config, train: Images) -> dict[str, Any]:
        """What the planner makes of a configuration, on a node of the cluster."""
        told = replace(config, threads=self.threads)
        return self._ray.get(self._ray.remote(**self._needs)(_plan_there).remote(asdict(told), train))

    def run(self, trials: Sequence[Trial]) -> Generator[Row, None, None]:
        """Runs trials; yields results as they come. What runs when the generator is closed is ended."""
        task = self._ray.remote(**self._needs)(_run_there)
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
                (ended,), _ = self._ray.wait(list(waiting), num_returns=1)
                trial = waiting.pop(ended)
                try:
                    row, files = self._ray.get(ended)
                except self._ray.exceptions.RayError as error:
                    row, files = failed_row(trial, f"Ray: {str(error).strip().splitlines()[-1]}"), {}
                for name, content in files.items():
                    path = trial.folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(path, content)
                trial.folder.mkdir(parents=True, exist_ok=True)
                yield trial.finish(row)
        finally:
            for ended in waiting:
                self._ray.cancel(ended)

    def _store(self, path: str) -> Any:
        """A reference to a file's content, which every node fetches once."""
        if path not in self._stored:
            self._stored[path] = self._ray.put(Path(path).read_bytes())
        return self._stored[path]

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ours:
            self._ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises OSError where nobody listens: Ray itself would go on trying for a quarter of an hour."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()


def _plan_there(told: Mapping[str, Any], train: Images) -> dict[str, Any]:
    """On a node: the plan."""
    # Ray hands arrays over as read-only memory
    return measure_plan(Config(**told), replace(train, images=train.images.copy(), labels=train.labels.copy()))


def _run_there(
    variant: str, place: Sequence[str], told: Mapping[str, Any], train: bytes, test: bytes
) -> tuple[Row, dict[str, bytes]]:
    """On a node: one trial from the start, in a folder of its own; returns its row and its files."""
    with tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as scratch:
        data = Path(scratch, "data")
        data.mkdir()
        (data / "train.npz").write_bytes(train)
        (data / "test.npz").write_bytes(test)
        config = replace(Config(**told), data=str(data / "train.npz"), test=str(data / "test.npz"))
        folder = Path(scratch, "trials", *place)
        row = run_trial(Trial(variant, folder, config))
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return row, files
