"""What a run would do on this machine, measured without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speedtrain.config import Config, resolve
from speedtrain.data import Images
from speedtrain.data.configured import load_configured, source_name
from speedtrain.errors import UserError
from speedtrain.member_configs import member_configs
from speedtrain.run.checks_before_start import check_network, resolve_machine, unused_options
from speedtrain.run.interruption import Interruption
from speedtrain.run.launcher import run_probe
from speedtrain.run.mirrored_classes import notes_on_mirrors
from speedtrain.run.progress import Display
from speedtrain.training.one_or_several import RULED_OUT, are_ruled_out, considered_members
from speedtrain.training.scaling_law import predict_accuracy


def plan(
    budget: float | None = None,
    data: str | Path | None = None,
    test: str | Path | None = None,
    **options: Any,
) -> tuple[Config, dict[str, Any], list[str]]:
    """What `train` with the same arguments would do on this machine: `python -m speedtrain plan`.

    Returns:
        The configuration; the plan as in `result.json`, with `expected` as there; and messages for the user.

    Raises:
        UserError: as for `train`, or the network is too large for this machine.
    """
    config = resolve(budget=budget, data=source_name(data), test=source_name(test), **options)
    loaded = load_configured(config, progress=Display().reading)
    given = {**options, **(options.get("settings") or {})}
    messages = [*loaded.notes, *unused_options(config, given), *resolve_machine(config)]
    messages += notes_on_mirrors(config, loaded.train, options.get("without", ()))
    or_members = considered_members(config, loaded.train.images.shape[1])
    if are_ruled_out(config, loaded.train.images.shape[1]):
        messages.append(RULED_OUT)
    for network in (*(member_configs(config) or [config]), *or_members):
        if start := check_network(network, loaded.train):
            messages.append(start.message)
    measured = measure_plan(config, loaded.train, or_members)
    sizes = len(loaded.train.images), len(loaded.train.classes), len(loaded.test.images)
    return (
        config,
        {**measured, "expected": predict_accuracy(config, measured, *sizes, native=loaded.train.like_cifar10)},
        messages,
    )


def measure_plan(config: Config, train: Images, or_members: Sequence[Config] = ()) -> dict[str, Any]:
    """The plan for a configuration on this machine, as in `result.json`; resolves device and threads in `config`.

    A process like the one that trains makes the plan, on a clock that counts from its start. Where it takes several
    networks in place of one, `config` has them as its members.

    Args:
        config: of one network, or with its members.
        train: the training images.
        or_members: several networks that the planner may take in place of one. Default: none.

    Raises:
        UserError: a training step fails.
    """
    resolve_machine(config)
    probe = run_probe(config, train, Interruption(), plan_only=True, or_members=or_members)
    if or_members:
        config.members = probe.worker.config.members
    if not probe.worker.planned:
        raise UserError(f"a training step fails here: {probe.error or 'planning does not end'}"[:300])
    return probe.worker.plan
