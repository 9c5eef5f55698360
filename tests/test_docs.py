"""The worked examples of the documentation run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def examples(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)


def run(code: str, folder: Path) -> str:
    (folder / "example.py").write_text(code)
    done = subprocess.run([sys.executable, "example.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_trick_in_a_plain_loop(tmp_path: Path) -> None:
    code = next(code for code in examples("tricks.md") if "for step in range(10)" in code)
    assert "speedtrain" not in code
    run(code + "\nassert loss.isfinite()\n", tmp_path)


def test_a_new_trick(tmp_path: Path) -> None:
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
    run(code + check, tmp_path)


@pytest.mark.parametrize("seconds", [12])
def test_a_budget_in_a_lightning_trainer(seconds: int, tmp_path: Path) -> None:
    code = next(code for code in examples("timing.md") if "BudgetCallback(20" in code)
    printed = run(code.replace("BudgetCallback(20", f"BudgetCallback({seconds}"), tmp_path)
    assert "'train'" in printed


def test_a_command_killed_in_time(tmp_path: Path) -> None:
    code = next(code for code in examples("timing.md") if "Guarded(" in code)
    (tmp_path / "train.py").write_text("import time\ntime.sleep(600)\n")
    printed = run(code.replace('"python"', repr(sys.executable)).replace("seconds=600", "seconds=1"), tmp_path)
    assert "reason='deadline', returncode=-9" in printed
