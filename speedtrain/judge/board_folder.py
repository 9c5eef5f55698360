"""The folder of a board: opening it, and what a judging keeps in it beside the journal."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from speedtrain.data import Data
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.judge.archive import Submission
from speedtrain.judge.printed_log import plain_text


def has_begun(out: Path) -> bool:
    """Whether a judging has begun there. One that was killed before the first line of its journal was whole has not."""
    try:
        return b"\n" in (out / "private" / "journal.jsonl").read_bytes()
    except OSError:
        return False


def open_board(out: Path, resume: bool, begun: bool) -> Path:
    """Makes the board's folder; returns the folder in it for what must not be published."""
    private = out / "private"
    try:
        if resume and not begun and not private.exists():
            raise UserError(f"--resume: nothing was judged in {out} yet")
        # a judging that was killed before it had begun leaves a journal without a whole line, and nothing else
        others = [path for path in out.rglob("*") if path not in (private, private / "journal.jsonl")]
        if not (begun and resume) and (begun or others):
            raise UserError(f"--out {out}: exists and is not empty; give --resume to go on, or name a new folder")
        out.mkdir(parents=True, exist_ok=True)
        private.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    return private


def board_key(number: int, submission: Submission) -> str:
    """The name of a submission in the board's files: letters, digits and hyphens alone."""
    readable = re.sub("[^a-z0-9]+", "-", submission.name.lower()).strip("-")[:40]
    return f"{number:02}-{readable}".strip("-")


def keep_zip(private: Path, key: str, submission: Submission) -> None:
    """Keeps a submission's zip, by which it is run again beside a late one."""
    path = zip_file(private, key)
    path.parent.mkdir(exist_ok=True)
    if submission.content and not (path.exists() and path.read_bytes() == submission.content):
        write_atomic(path, submission.content)


def zip_file(private: Path, key: str) -> Path:
    """Where a board keeps the zip of a submission."""
    return private / "submissions" / f"{key}.zip"


def write_descriptions(out: Path, submissions: Mapping[str, Submission]) -> None:
    """Writes the descriptions of submissions, for the board."""
    folder = out / "descriptions"
    folder.mkdir(exist_ok=True)
    for key, submission in submissions.items():
        # as text: in a page, Markdown of a stranger's could hold scripts and links that lead elsewhere
        (folder / f"{key}.txt").write_text(plain_text(submission.description.encode()), encoding="utf-8")


def train_file(out: Path, regime: str) -> Path:
    """Where a board's folder holds the training images of a regime, for submissions to read."""
    return out / "private" / "inputs" / (f"{regime}.npz" if regime else "train.npz")


def write_training_images(out: Path, regimes: Mapping[str, Data]) -> None:
    """Writes the training images of every regime."""
    (out / "private" / "inputs").mkdir(exist_ok=True)
    for regime, data in regimes.items():
        path, train = train_file(out, regime), data.train
        np.savez(path, images=train.images, labels=train.labels, classes=np.array(train.classes))
        path.chmod(0o644)
