"""The worked examples of the documentation run as they stand."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parent.parent


def examples(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)


@pytest.fixture
def run(warm_python: str, tmp_path: Path) -> Callable[[str], str]:
    """Runs a program in a process and a folder of its own; returns what it prints."""

    def run(code: str) -> str:
        (tmp_path / "example.py").write_text(code)
        command = warm.through(warm_python, "example.py")
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_trick_in_a_plain_loop(run: Callable[[str], str]) -> None:
    code = next(code for code in examples("tricks.md") if "for step in range(10)" in code)
    assert "speedtrain" not in code
    run(code + "\nassert loss.isfinite()\n")


def test_a_new_trick(run: Callable[[str], str]) -> None:
    code = next(code for code in examples("tricks.md") if "class GradientNoise" in code)
    check = """
model = nn.Linear(2, 1)
def compute(batch):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return torch.zeros(())
trick = GradientNoise(eta=4.0)
assert trick.stages() == ("gradient",) and trick.name() == "gradient_noise"
noisy, drawn = trick.gradient(compute, model), []
for _ in range(2000):
    noisy(Batch(None, None, step=0))
    drawn.append(model.bias.grad.item())
assert abs(torch.tensor(drawn).std().item() - 2.0) < 0.2
"""
    run(code + check)


@pytest.mark.parametrize("seconds", [3])
def test_a_budget_in_a_lightning_trainer(seconds: int, run: Callable[[str], str]) -> None:
    code = next(code for code in examples("timing.md") if "BudgetCallback(20" in code)
    printed = run(code.replace("BudgetCallback(20", f"BudgetCallback({seconds}"))
    assert "'train'" in printed


def test_a_command_killed_in_time(run: Callable[[str], str], tmp_path: Path) -> None:
    code = next(code for code in examples("timing.md") if "Guarded(" in code)
    (tmp_path / "train.py").write_text("import time\ntime.sleep(600)\n")
    printed = run(code.replace('"python"', repr(sys.executable)).replace("seconds=600", "seconds=1"))
    assert "reason='deadline', returncode=-9" in printed
