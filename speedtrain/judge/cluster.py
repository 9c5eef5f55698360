"""A judging on many machines: one run is one task of a Ray cluster, which has its cores and GPUs to itself.

Zips, images and results travel through Ray; the journal stays with the organiser. Every node is checked as one machine
would be, and measured by the same probe. A contest runs on nodes of about the same speed, or is refused. The runs of
every submission are spread over the nodes alike, as in a Latin square. A node that dies costs nobody a run: its runs
are run on the others.
"""

import math
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from speedtrain.errors import UserError
from speedtrain.files import lock
from speedtrain.judge import machine_speed, sandbox_check, submission_files
from speedtrain.judge.archive import read_submission
from speedtrain.judge.attempt import Task, measured_attempt
from speedtrain.judge.settings import Score, Settings, ZipRules
from speedtrain.judge.turns import Turn, Turns, machine_in_words
from speedtrain.ray_cluster import connect, living_nodes

FOLDERS = "speedtrain-judge-"
"""How the names of the folders begin in which runs go on, in the folder for temporary files of a node."""
MOST_CRASHES = 3
"""How often a run is started again because the process that judged it was lost on a node that is still alive."""


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time.

    Attributes:
        node: Ray's name of the node.
        name: for people: the name of the host, and a number where it has several places.
        place: number of the place on its host, from 0. Places have cores and GPUs of their own.
    """

    node: str
    name: str
    place: int


class Cluster:
    """The nodes of a Ray cluster that can judge. Used in a `with` block.

    Args:
        settings: the rules of the judging.
        address: of the cluster, as for `ray.init`; None: $RAY_ADDRESS, or a new cluster of this machine alone.

    Attributes:
        slots: the places for runs.
        speeds: name of a place → GFLOP/s; empty where any drift is allowed.

    Raises:
        UserError: no cluster, no node is large enough, a node cannot judge, or the nodes differ in speed.
    """

    def __init__(self, settings: Settings, address: str | None) -> None:
        self._settings = settings
        self._ray, self._started_here = connect(address)
        self._resources: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus or 0, "max_retries": 0}
        self._stored: dict[str, Any] = {}
        self._tried: dict[str, sandbox_check.Tried] = {}  # by node
        try:
            self.slots = self._find_slots()
            self.speeds = self._check_nodes()
        except BaseException:
            self._leave()
            raise

    def _find_slots(self) -> list[Slot]:
        """One place per node, or, with GPUs, one per as many of them as a run has."""
        cpus, gpus = self._settings.cpus, self._settings.gpus or 0
        found: list[Slot] = []
        by_host: dict[str, int] = {}
        nodes = sorted(living_nodes(self._ray), key=lambda node: (node["NodeManagerHostname"], node["NodeID"]))
        for node in nodes:
            has = node["Resources"]
            places = min(int(has["CPU"] // cpus), int(has.get("GPU", 0) // gpus)) if gpus else int(has["CPU"] >= cpus)
            host = node["NodeManagerHostname"]
            for _ in range(places):
                place = by_host[host] = by_host.get(host, -1) + 1
                found.append(Slot(node["NodeID"], f"{host}-{place + 1}", place))
        if not found:
            gpu = f" and {gpus} GPUs" if gpus else ""
            largest = max((int(node["Resources"]["CPU"]) for node in nodes), default=0)
            have = f"the largest of {len(nodes)} has {largest} cores"
            raise UserError(f"--engine ray: no node has {cpus} cores{gpu} for a run; {have}")
        return [Slot(slot.node, slot.name if by_host[_host(slot)] else _host(slot), slot.place) for slot in found]

    def _check_nodes(self) -> dict[str, float]:
        """Checks every place as one machine is checked, and measures it while the others of its host are idle."""
        speeds: dict[str, float] = {}
        for place in range(1 + max(slot.place for slot in self.slots)):
            here = [slot for slot in self.slots if slot.place == place]
            asked = {slot: self._start(slot, _check_node, asdict(self._settings), place) for slot in here}
            for slot, reference in asked.items():
                try:
                    problem, measured, tried = self._ray.get(reference)
                except self._ray.exceptions.RayError as error:
                    raise UserError(f"--engine ray: node {slot.name} cannot judge: {_last_line(error)}") from None
                if problem:
                    raise UserError(f"--engine ray: node {slot.name} cannot judge: {problem}")
                if measured is not None:
                    speeds[slot.name] = measured
                if tried is not None:
                    self._tried[slot.node] = tried
        if speeds and max(speeds.values()) > (1 + self._settings.drift) * min(speeds.values()):
            table = ", ".join(f"{name} {rate:.0f}" for name, rate in sorted(speeds.items(), key=lambda item: item[1]))
            raise UserError(
                f"--engine ray: the nodes differ in speed by more than {self._settings.drift:.0%} (GFLOP/s: {table}): "
                "judge on nodes of one kind, or allow more drift"
            )
        return speeds

    def _start(self, slot: Slot, work: Callable[..., Any], *arguments: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node_id=slot.node, soft=False)
        return self._ray.remote(**self._resources, scheduling_strategy=there)(work).remote(*arguments)

    @property
    def speed(self) -> float | None:
        """GFLOP/s, the median over the places; None where any drift is allowed."""
        return float(np.median(list(self.speeds.values()))) if self.speeds else None

    def prepare(self, turns: Turns) -> None:
        """Tells of the nodes, and records their speeds.

        Raises:
            UserError: they are not of the speed of those on which the judging was begun.
        """
        begun, now = turns.journal.header["speed"], self.speed
        if begun and now and machine_speed.is_off(now, begun, self._settings.drift):
            raise UserError(
                f"--engine ray: these nodes have {now:.0f} GFLOP/s, those on which the judging was begun had "
                f"{begun:.0f}: judge on nodes of the same kind"
            )
        names = [slot.name for slot in self.slots]
        turns.journal.add_event({"event": "nodes", "speeds": {name: self.speeds.get(name) for name in names}})
        turns.report(f"{len(names)} runs at a time, on {', '.join(names)}")
        for words in {tried.in_words() for tried in self._tried.values()}:
            turns.report(words)

    # ---- the runs ----

    def run_all(self, turns: Turns) -> None:
        """Runs what the journal does not hold yet.

        Raises:
            UserError: as of `Turns.run_all`, or no node is left.
        """
        left, total = turns.left, len(turns.all)
        if total > len(left):
            turns.report(f"{total - len(left)} of {total} runs were judged before")
        queues = {slot: deque(mine) for slot, mine in latin_square(left, list(turns.submissions), self.slots).items()}
        running: dict[Any, tuple[Slot, Turn]] = {}
        crashes: dict[Turn, int] = {}
        num_finished = total - len(left)
        while running or any(queues.values()):
            busy = {slot for slot, _ in running.values()}
            for slot in queues.keys() - busy:
                if queues[slot]:
                    turn = queues[slot].popleft()
                    running[self._start_turn(slot, turn, turns)] = (slot, turn)
            (reference,), _ = self._ray.wait(list(running), num_returns=1)
            slot, turn = running.pop(reference)
            try:
                came = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                crashes[turn] = crashes.get(turn, 0) + 1
                self._give_to_others(slot, turn, queues, error, crashes[turn], turns.report)
                continue
            if came["problem"]:
                raise UserError(f"node {slot.name}: {came['problem']}")
            entry = self._record(slot, turn, came, turns)
            num_finished += 1
            name = turns.submissions[turn.submission].name
            where = f" on {turn.regime}" if turn.regime else ""
            turns.report(
                f"{num_finished} of {total} runs: {name}, its run {turn.run}{where}, node {slot.name}: "
                f"{entry['verdict']}{machine_in_words(entry)}"
            )

    def _give_to_others(
        self,
        slot: Slot,
        turn: Turn,
        queues: dict[Slot, deque[Turn]],
        error: Exception,
        crashes: int,
        report: Callable[[str], None],
    ) -> None:
        """After a run was lost: its place starts it again, or others do if the node is dead."""
        alive = {node["NodeID"] for node in living_nodes(self._ray)}
        if slot.node in alive:
            if crashes >= MOST_CRASHES:
                raise UserError(
                    f"node {slot.name} lost run {turn.run} of {turn.submission} {crashes} times ({_last_line(error)}): "
                    "mend the cause, then go on with judge --resume"
                )
            queues[slot].appendleft(turn)
            return
        orphans = [turn, *queues.pop(slot)]
        if not queues:
            raise UserError("no node of the cluster is left: start some, then go on with judge --resume")
        report(f"node {slot.name} died; the others take over its {len(orphans)} runs")
        for orphan in orphans:
            min(queues.values(), key=len).append(orphan)

    def _start_turn(self, slot: Slot, turn: Turn, turns: Turns) -> Any:
        task = turns.task(turn)
        content = self._store(f"zip {turn.submission}", lambda: task.submission.content)
        train = self._store(f"train {turn.regime}", task.train.read_bytes)
        test = self._store(f"test {turn.regime}", lambda: task.test_images)
        facts = (task.num_classes, asdict(self._settings), task.seed, slot.place)
        files = self._tried[slot.node].package_files if slot.node in self._tried else ()
        machine = (files, self.speeds.get(slot.name))
        return self._start(slot, _run_on_node, content, train, test, *facts, *machine)

    def _store(self, name: str, read: Callable[[], Any]) -> Any:
        """A reference to a value in Ray's object store. Every node fetches it once."""
        if name not in self._stored:
            self._stored[name] = self._ray.put(read())
        return self._stored[name]

    def _record(self, slot: Slot, turn: Turn, came: Mapping[str, Any], turns: Turns) -> dict[str, Any]:
        """Keeps the files and the journal's line of a run."""
        log, test_log = turns.log_files(turn)
        log.write_bytes(came["log"])
        for name, content in came["test_logs"].items():
            test_log.with_name(name.replace("test-log", test_log.stem, 1)).write_bytes(content)
        entry = turns.entry(turn, came["measured"], self.speeds.get(slot.name))
        entry["node"] = slot.name
        turns.journal.add(entry)
        return entry

    # ---- its end ----

    def _leave(self) -> None:
        if self._started_here:
            self._ray.shutdown()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()


def latin_square(left: Sequence[Turn], submissions: Sequence[str], slots: Sequence[Slot]) -> dict[Slot, list[Turn]]:
    """Which place each run has: the runs of a submission go round the places, each submission from another one.

    A control goes where the run is that it is compared with.

    Args:
        left: the runs, in order.
        submissions: all names on the board, in order.
        slots: the places.
    """
    found: dict[Slot, list[Turn]] = {slot: [] for slot in slots}
    regimes = list(dict.fromkeys(turn.regime for turn in left))
    for turn in left:
        row = submissions.index(turn.control_for or turn.submission)
        found[slots[(row + turn.run - 1 + regimes.index(turn.regime)) % len(slots)]].append(turn)
    return found


def _host(slot: Slot) -> str:
    return slot.name.rpartition("-")[0]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:300]


# ---- on a node ----


def _settings_of(values: Mapping[str, Any]) -> Settings:
    given = {**values, "score": Score(**values["score"]), "rules": ZipRules(**values["rules"])}
    return Settings(**given)


def _check_node(values: Mapping[str, Any], place: int) -> tuple[str, float | None, sandbox_check.Tried | None]:
    """Checks that this node can judge; returns why not (empty if it can), its speed, and what the sandbox shows."""
    tried = None
    settings = _settings_of(values)
    _clear_leftovers()
    try:
        settings.check(Path(tempfile.gettempdir()), place)
        limits = settings.limits(60, place)
        sandbox_check.check(settings.sandbox, limits, {})
        if place == 0:  # once per host
            tried = sandbox_check.check_packages(settings.sandbox)
        measured = machine_speed.reference_speed(limits.cpus)[0] if math.isfinite(settings.drift) else None
    except UserError as error:
        return str(error), None, None
    return "", measured, tried


def _run_on_node(
    content: bytes,
    train: bytes,
    test_images: np.ndarray,
    num_classes: int,
    values: Mapping[str, Any],
    seed: int,
    place: int,
    package_files: tuple[str, ...],
    reference: float | None,
) -> dict[str, Any]:
    """One run in a temporary folder of this node, with the speed before and after.

    Returns:
        `measured`, the attempt; `log` and `test_logs`, the content of its files; and `problem`, why the run could not
        be started, in which case it has no other key.
    """
    settings = _settings_of(values)
    folder = Path(tempfile.mkdtemp(prefix=FOLDERS)).resolve()
    in_use = open(folder / "lock", "wb")  # noqa: SIM115 (open as long as the run)
    lock(in_use)
    try:
        (folder / "submission.zip").write_bytes(content)
        (folder / "train.npz").write_bytes(train)
        (folder / "train.npz").chmod(0o644)
        submission = read_submission(folder / "submission.zip", settings.rules, inspected=False)
        task = Task(submission, folder / "train.npz", test_images, num_classes, settings, seed, place, package_files)
        logs = folder / "logs"
        logs.mkdir()
        return {
            "problem": "",
            "measured": measured_attempt(task, folder / "work", folder / "log.txt", logs / "test-log.txt", reference),
            "log": (folder / "log.txt").read_bytes(),
            "test_logs": {path.name: path.read_bytes() for path in logs.iterdir()},
        }
    except UserError as error:  # its class may not travel
        return {"problem": str(error)}
    finally:
        in_use.close()
        submission_files.clear(folder)


def _clear_leftovers() -> None:
    """Removes what runs left here that were killed with their judge: secret images are among it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        try:
            with open(folder / "lock", "r+b") as file:
                if lock(file):
                    submission_files.clear(folder)
        except OSError:
            continue  # it has no lock yet, or it is another user's
