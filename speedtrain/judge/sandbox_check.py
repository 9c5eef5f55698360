"""Makes sure, before anything is judged, that the sandbox works on this machine."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speedtrain.errors import UserError
from speedtrain.judge import package_files, sandboxed_step
from speedtrain.judge.control_groups import NoControlGroups, new_group
from speedtrain.judge.sandbox import PACKAGES, Step, find_tool, visible
from speedtrain.judge.scratch import make_scratch, remove_mounts
from speedtrain.judge.settings import Kind, Limits, held_in_words

AMPLE = Limits(seconds=120, memory=8 << 30, disk=1 << 30)
"""Limits within which Python starts on any machine, and imports any package."""


def check(kind: Kind, limits: Limits, secret: Mapping[str, Path]) -> None:
    """Makes sure that the sandbox works here, that Python starts within the limits, and that secrets are hidden.

    Args:
        limits: those of the judging.
        secret: option → path that no submission may read.

    Raises:
        UserError: one of these does not hold.
    """
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise UserError("judging needs Linux with /proc, and a kernel that lists the children of a process there")
    for tool in ("taskset", "prlimit", *(["setpriv"] if os.geteuid() == 0 else [])):
        find_tool(tool)
    hint = "or give --sandbox none, which trusts the submissions with everything you can read and write"
    if kind == "bwrap":
        if shutil.which("bwrap") is None:
            raise UserError(
                f"bubblewrap (bwrap) is not installed: install it with your system's package manager, {hint}"
            )
        for option, path in secret.items():
            for seen in visible():
                if path.resolve().is_relative_to(seen.resolve()):
                    raise UserError(f"{option} {path}: submissions can read all of {seen}; move it elsewhere")
    problem = _problem(kind, limits)
    if problem and not _problem(kind, AMPLE):
        raise UserError(f"Python does not start within the limits ({problem}): raise --memory, --disk or --processes")
    if problem and kind == "bwrap":
        raise UserError(
            f"Python does not start in a bubblewrap sandbox here ({problem}): allow user namespaces, {hint}"
        )
    if problem:
        raise UserError(f"Python does not start under taskset and prlimit here ({problem})")


@dataclass(frozen=True)
class Tried:
    """What a trial of the sandbox has shown.

    Attributes:
        package_files: files that importing the packages reads.
        by_kernel: limits on all processes together that the kernel holds here.
    """

    package_files: tuple[str, ...]
    by_kernel: tuple[str, ...]

    def in_words(self) -> str:
        """Who holds the limits here, and what the kernel would need to hold them all."""
        words = held_in_words(self.by_kernel)
        if "memory" not in self.by_kernel:
            words += f" (no control group: {_why_no_group()}; see docs/submission.md)"
        return words


def _why_no_group() -> str:
    try:
        new_group(AMPLE).remove()
    except NoControlGroups as problem:
        return str(problem)
    return "not during the trial"


def check_packages(kind: Kind) -> Tried:
    """Makes sure that submissions can import every package that they may use.

    Raises:
        UserError: they cannot.
    """
    problem, printed, by_kernel = _try(kind, AMPLE, f"import {', '.join(PACKAGES)}\n{package_files.LIST}")
    if problem:
        raise UserError(
            f"submissions may use {', '.join(PACKAGES)}, but cannot import them all in their sandbox ({problem}): "
            "install what is missing for this Python"
        )
    return Tried(package_files.listed(printed), by_kernel)


def works() -> bool:
    """Whether bubblewrap can be used here."""
    try:
        check("bwrap", AMPLE, {})
    except UserError:
        return False
    return True


def _problem(kind: Kind, limits: Limits) -> str | None:
    """Why Python does not start; None if it does."""
    return _try(kind, limits, "import json, math, zlib")[0]


def _try(kind: Kind, limits: Limits, program: str) -> tuple[str | None, str, tuple[str, ...]]:
    """Why a script does not run to its end, None if it does; what it prints; and the limits that the kernel held."""
    with tempfile.TemporaryDirectory(prefix="speedtrain-") as name:
        folder = Path(name).resolve()
        step = Step(folder / "source", "check.py", [], [], folder / "scratch", seed=0)
        step.source.mkdir()
        step.source.chmod(0o755)
        (step.source / "check.py").write_text(program)
        (step.source / "check.py").chmod(0o644)
        make_scratch(step.scratch, limits.disk, step.user)
        try:
            outcome = sandboxed_step.run(step, limits, kind, folder / "log.txt")
        except sandboxed_step.NotStarted as error:
            return error.problem, "", ()
        finally:
            remove_mounts(step.scratch)
        printed = (folder / "log.txt").read_text(encoding="utf-8")
    problem = None if outcome.returncode == 0 and not outcome.limit else outcome.in_words()
    return problem, printed, outcome.by_kernel
