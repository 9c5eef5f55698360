"""The directory of a run."""

import pytest

from speedtrain.run.progress import Display
from speedtrain.run.run_directory import may_fail


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "a.csv"), ValueError("two\nlines"), MemoryError()], ids=repr
)
def test_a_file_that_cannot_be_written_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with may_fail(Display(quiet=True)):
        raise error
    said = capsys.readouterr().err
    assert said.startswith("could not write")
    assert said.count("\n") == 1
