"""Why a budget was too small, and which one would do."""

import math

from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.run.interruption import Interruption
from speedtrain.run.launcher import run_probe


def explain_nothing_saved(config: Config, train: Images, interruption: Interruption) -> str:
    """Why nothing was saved within the budget, by measuring how long a single step takes here."""
    probe = run_probe(config, train, interruption, max_steps=1)
    seconds = probe.ended.wall_seconds
    too_small = f"a budget of {config.budget:g} s is too small to take a single step here; "
    if probe.worker.done is None or probe.worker.done["step"] == 0:
        return probe.error or f"{too_small}{seconds:.0f} s were not enough either"
    enough = math.ceil(1.3 * seconds + 0.5)
    if enough <= config.budget:
        return (
            f"the budget of {config.budget:g} s ended before the first step was saved, but a second try took only "
            f"{seconds:.1f} s: other programs keep this machine busy"
        )
    return f"{too_small}about {enough} s is the smallest, as busy as this machine is now"
