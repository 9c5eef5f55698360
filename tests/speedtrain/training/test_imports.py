"""What a quicker import does where packages need each other."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from speedtrain.training.imports import import_without
from speedtrain.training.sgd import SGD


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`outer` takes `heavy` if it is there, and `middle`; `picky` takes `needy`, which cannot do without `heavy`."""
    sources = {
        "heavy": "VALUE = 1",
        "middle": "try:\n    import heavy\nexcept ImportError:\n    heavy = None",
        "outer": "import middle",
        "needy": "import needy.part",
        "needy/part": "import heavy",
        "picky": "import middle, needy\nheavy = middle.heavy",
    }
    (tmp_path / "needy").mkdir()
    for name, source in sources.items():
        path = tmp_path / f"{name}/__init__.py" if name == "needy" else tmp_path / f"{name}.py"
        path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("packages")
def test_a_module_is_imported_without_what_it_can_do_without() -> None:
    outer = import_without("outer", {"heavy": None})
    assert outer.middle.heavy is None
    assert "heavy" not in sys.modules


@pytest.mark.usefixtures("packages")
def test_a_package_that_cannot_do_without_gets_what_it_needs() -> None:
    """transformers, which torchmetrics imports where it is installed, cannot do without some of what is hidden."""
    version = importlib.metadata.version
    picky = import_without("picky", {"heavy": None})
    assert picky.needy.part.heavy.VALUE == 1
    assert importlib.metadata.version is version


def test_training_takes_steps_without_the_compiler() -> None:
    """With torch's optimizer, and with one of its own that wraps it. The compiler can be used afterwards."""
    code = """
import sys
from speedtrain.training.imports import import_lightning
import_lightning()
import torch
from torch import Tensor
from speedtrain.config import resolve
from speedtrain.training.lightning_module import build_training
images, labels = torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8), torch.arange(16) % 10
for tricks in ({}, {"muon": {}, "sam": {}}):
    config = resolve(budget=60, tricks=list(tricks))
    training = build_training(config, images, labels, 10, width=8, precision="fp32")
    training.differentiate = Tensor.backward
    optimizer = training.configure_optimizers()
    training.step(torch.arange(16), optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
print([name for name in sys.modules if name.startswith("torch._dynamo")])
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "tensor([2., 2.])"], done.stderr


def three_steps(kind: type[torch.optim.SGD]) -> torch.Tensor:
    """The weights that they lead to."""
    weights = [torch.nn.Parameter(torch.arange(6.0).view(2, 3)), torch.nn.Parameter(torch.ones(3))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}]
    optimizer = kind(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = ((weights[0] * weights[1]) ** 2).sum()
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(loss)
    return torch.cat([weight.detach().flatten() for weight in weights])


def test_a_step_is_that_of_torch() -> None:
    torch.testing.assert_close(three_steps(SGD), three_steps(torch.optim.SGD), rtol=0, atol=0)
