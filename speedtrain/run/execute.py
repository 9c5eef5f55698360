"""One run as a story: check, launch, score, write."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from speedtrain.config import Config
from speedtrain.data import Data
from speedtrain.files import write_atomic
from speedtrain.member_configs import member_configs
from speedtrain.model.predictions_file import write_predictions
from speedtrain.run import checks_before_start, run_directory
from speedtrain.run.budget_too_small import explain_nothing_saved
from speedtrain.run.interruption import Interruption
from speedtrain.run.kept_scores import point, score_kept_weights
from speedtrain.run.launcher import WorkerProcess
from speedtrain.run.loggers import Loggers, RunLoggers
from speedtrain.run.mirrored_classes import notes_on_guesses
from speedtrain.run.model_card import write_model_card
from speedtrain.run.progress import Display
from speedtrain.run.report import write_report
from speedtrain.run.result import (
    Result,
    add_score,
    conclude,
    describe,
    note_of_all_epochs,
    warning_of_short_schedule,
)
from speedtrain.run.run_directory import may_fail
from speedtrain.run.scoring import Score, score
from speedtrain.run.seen_images import count_seen_images, notes_on_seen_images, write_seen_images
from speedtrain.run.starting_weights import check_same_start
from speedtrain.starting_point import find_trained_run
from speedtrain.training.one_or_several import RULED_OUT, are_ruled_out, considered_members
from speedtrain.training.step_log import Recorded


def execute(
    config: Config,
    data: Data,
    out: str | Path | None,
    display: Display,
    *,
    off_clock: dict[str, float],
    messages: Sequence[str] = (),
    replay: Recorded | None = None,
    logger: Loggers = None,
) -> Result:
    """Checks, trains and scores one configuration; see `train`.

    Args:
        config: the configuration; device, threads and plan are filled in.
        data: the images.
        out: run directory, as for `train`.
        display: shows progress and messages.
        off_clock: seconds spent so far that do not count, by name.
        messages: for the user; default: none.
        replay: what to follow instead of the clock; default: the clock.
        logger: as for `train`.
    """
    started = time.monotonic()
    loggers = RunLoggers(logger, display)
    messages = [*data.notes, *messages, *checks_before_start.resolve_machine(config)]
    if config.pretrained:
        display.info(f"fetching the weights that timm offers for {config.model} …")
    members = member_configs(config)
    or_members = () if replay is not None else considered_members(config, data.train.images.shape[1])
    for network in (*(members or [config]), *or_members):
        start = checks_before_start.check_network(network, data.train)
    before = find_trained_run(config.start_from)
    seen = None if before is None else count_seen_images(before, data.test)
    if start is not None:
        messages.append(start.message)
    if before is not None and replay is None:
        messages += notes_on_seen_images(before, seen, len(data.test.labels))
    if replay is not None:
        check_same_start(start, replay.log.parent)
    checks_before_start.check_room(data.train, config.device)
    run = run_directory.new_run_directory(out)
    for message in messages:
        display.warn(message)
    if are_ruled_out(config, data.train.images.shape[1]):
        display.info(RULED_OUT)
    run_directory.write_config(run, config)
    with may_fail(display):
        write_seen_images(run, data.train, before)
    off_clock["check"] = time.monotonic() - started

    with loggers.follow(config, run), Interruption() as interruption:
        worker = WorkerProcess(config, data.train, run, display, replay, start, loggers.step, members, or_members)
        ended = worker.work(interruption)

        started = time.monotonic()
        worker.read_last_save()
        with may_fail(display):
            run_directory.write_config(run, config)  # as planned; while training the disk may have been full
        result = describe(config, data, worker, ended, messages)
        for note in note_of_all_epochs(result):
            result["events"].append(note)
            display.info(note)
        if before is not None:
            result["started_from"]["seen_test_images"] = seen
        weights = run / "weights.safetensors"
        scored = None
        if weights.exists():
            display.info(f"scoring {len(data.test.images)} images …")
            try:
                scored = score(weights, data.test, config, display.counting("scoring"))
                add_score(result, scored, weights)
            except Exception as failure:  # memory may be short: what was trained must not be lost
                reason = f"{type(failure).__name__}: {failure}"
                result["error"] = " ".join(f"the weights are saved, but could not be scored ({reason})".split())

        if scored is not None and config.snapshots:
            curve = score_kept_weights(run, data.test, config, display, interruption)
            result["learning_curve"] = [*curve, point(ended.wall_seconds, weights, scored)]

        def explain() -> str:
            display.info("the budget ended before the first step was saved; measuring what would be enough …")
            return explain_nothing_saved(config, data.train, interruption)

        result["status"], error = conclude(worker, ended, interruption, saved=weights.exists(), explain=explain)
        if error is not None:
            result["error"] = error
        if interruption.signal is not None:
            result["signal"] = interruption.signal
        if scored is not None:
            predicted = scored.probabilities.argmax(1)
            warnings = notes_on_guesses(config, data.test.labels, predicted, data.test.classes)
            for warning in [*warning_of_short_schedule(result), *warnings]:
                result["events"].append(warning)
                display.warn(warning)
        off_clock["score"] = time.monotonic() - started
        result["off_clock"] = {name: round(seconds, 3) for name, seconds in off_clock.items()}
        _write_files(run, result, data, scored, display)
        loggers.end(result)
    display.result(result, run)
    result["out"] = str(run)
    return result


def _write_files(run: Path, result: Result, data: Data, scored: Score | None, display: Display) -> None:
    """Writes what a run leaves beside its weights, the result first; each file by itself, in case one fails."""
    with may_fail(display):
        write_atomic(run / "result.json", json.dumps(result, indent=2, ensure_ascii=False).encode())
    if scored is not None:
        for name in ("predictions.npz", "predictions.csv"):
            with may_fail(display):
                write_predictions(
                    run / name, scored.probabilities, data.test.classes, data.test.files, data.test.labels
                )
    if scored is not None:
        with may_fail(display):
            write_model_card(run, result)
    with may_fail(display):
        write_report(
            run,
            result,
            images=None if scored is None else data.test.images,
            labels=None if scored is None else data.test.labels,
            probabilities=None if scored is None else scored.probabilities,
            classes=data.train.classes,
            files=None if scored is None else data.test.files,
        )
    run_directory.remove_partial_saves(run)
