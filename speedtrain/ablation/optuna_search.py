"""The search itself: Optuna proposes settings, trials measure them.

Optuna calls each of its proposals a trial. Here a proposal is Optuna's, and a trial is one training run of ours.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speedtrain.ablation.engine import Engine
from speedtrain.ablation.metric import score_in_words
from speedtrain.ablation.search_space import Dimension
from speedtrain.ablation.trial import Row, Trial
from speedtrain.errors import UserError

if TYPE_CHECKING:
    import optuna

PROPOSALS_BEFORE_PRUNING = 5

MakeTrial = Callable[[Mapping[str, Any], int], Trial]
"""Settings and a seed → the trial that measures them."""


def require_optuna() -> None:
    """Raises UserError where Optuna is not installed; names the extra to install."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError('tune needs Optuna: pip install "speedtrain[tune]"') from None


def mend_journal(journal: Path) -> None:
    """Takes out of a journal what a kill leaves: half a line at its end, and a lock.

    Optuna would wait half a minute for the lock, and take the next line for a part of the half one. Nobody else has the
    journal open: the folder around it is ours.
    """
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink()
    if journal.exists():
        with journal.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


@dataclass
class _Attempt:
    """One proposal, its settings, and the scores of its trials so far."""

    proposal: "optuna.Trial"
    settings: Mapping[str, Any]
    scores: list[float] = field(default_factory=list)


class Search:
    """Settings proposed by Optuna's TPE sampler and measured by trials; kept in a file, so that it can go on.

    Args:
        journal: the file. A proposal in it that a kill cut short is proposed again.
        space: what to search.
        seeds: the trials of each proposal; its score is their mean. Optuna's median pruner gives up a proposal
            between them.
        seed: of the sampler.
        engine: runs the trials.
        make_trial: makes a trial.
        metric: the score of a trial, a key of `METRICS`; the higher, the better.
    """

    def __init__(
        self,
        journal: Path,
        space: Sequence[Dimension],
        seeds: Sequence[int],
        seed: int,
        engine: Engine,
        make_trial: MakeTrial,
        metric: str,
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        self._space, self._seeds, self._engine, self._make_trial = space, seeds, engine, make_trial
        self._metric = metric
        optuna.logging.set_verbosity(logging.WARNING)
        mend_journal(journal)
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PROPOSALS_BEFORE_PRUNING),
        )
        # another seed after each kill: the same one would propose the first settings again
        seed += len(self._study.trials)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=engine.at_once > 1)
        for cut_short in self._study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            self._study.tell(cut_short.number, state=optuna.trial.TrialState.FAIL)
            self._study.enqueue_trial(cut_short.params)

    def finished(self) -> list["optuna.trial.FrozenTrial"]:
        """The proposals that were measured, given up or failed; not those that a kill cut short."""
        return [each for each in self._study.trials if each.state.is_finished() and "runs" in each.user_attrs]

    def best(self) -> "optuna.trial.FrozenTrial":
        """The proposal with the highest score."""
        return self._study.best_trial

    def measure(self, number: int) -> Iterator[str]:
        """Takes that many new proposals and measures them side by side, seed by seed.

        Yields:
            A line about each trial.
        """
        proposals = [self._study.ask() for _ in range(number)]
        attempts = [
            _Attempt(proposal, {dimension.key: dimension.suggest(proposal) for dimension in self._space})
            for proposal in proposals
        ]
        for seed in self._seeds:
            trials = [self._make_trial(attempt.settings, seed) for attempt in attempts]
            self._run_missing(trials)
            continuing = []
            for attempt, trial in zip(attempts, trials, strict=True):
                row = trial.result() or {}
                if self._record(attempt, row):
                    continuing.append(attempt)
                outcome = row.get("error") or score_in_words(row, self._metric)
                yield f"{trial.variant}, seed {seed}: {outcome}"
            attempts = continuing

    def _run_missing(self, trials: Sequence[Trial]) -> None:
        """Runs the trials without a result. Settings that were proposed before are not trained again."""
        missing = {trial.folder: trial for trial in trials if trial.result() is None}
        with closing(self._engine.run(list(missing.values()))) as results:
            for _ in results:
                pass

    def _record(self, attempt: _Attempt, row: Row) -> bool:
        """Reports a trial's result to Optuna. Returns whether the proposal goes on with the next seed."""
        from optuna.trial import TrialState

        score = row.get(self._metric)
        if score is None:
            attempt.proposal.set_user_attr("error", row.get("error") or score_in_words(row, self._metric))
            return self._finish(attempt, TrialState.FAIL)
        attempt.proposal.report(float(np.mean([*attempt.scores, score])), len(attempt.scores))
        attempt.scores.append(score)
        if len(attempt.scores) == len(self._seeds):
            return self._finish(attempt, TrialState.COMPLETE, float(np.mean(attempt.scores)))
        if attempt.proposal.should_prune():
            return self._finish(attempt, TrialState.PRUNED)
        return True

    def _finish(self, attempt: _Attempt, state: "optuna.trial.TrialState", score: float | None = None) -> bool:
        attempt.proposal.set_user_attr("runs", len(attempt.scores))
        self._study.tell(attempt.proposal, score, state=state)
        return False
