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


def printed_by(code: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_whole_training_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    """By the default recipe, and by one without tricks. What was hidden from Lightning is there again afterwards."""
    code = """
import sys
from pathlib import Path
import numpy as np
from speedtrain.config import resolve
from speedtrain.training.worker import train
from timing import Ledger
images, labels = np.zeros((64, 32, 32, 3), np.uint8), np.arange(64) % 10
for recipe in ("auto", {}):
    config = resolve(recipe=recipe, budget=600, device="cpu", settings={"width": 8, "batch_size": 16})
    train(config, images, labels, [*map(str, range(10))], Path(sys.argv[1]), ledger=Ledger(), max_steps=3)
heavy = ("torch._dynamo", "torchvision", "scipy", "matplotlib", "pandas")
print([name for name in sys.modules if name.startswith(heavy)])
import importlib.metadata, torchvision, scipy.signal, matplotlib
print(importlib.metadata.version("scipy") == scipy.__version__)
"""
    assert printed_by(code, str(tmp_path))[-2:] == ["[]", "True"]
    assert (tmp_path / "weights.safetensors").stat().st_size > 1000


def test_the_compiler_is_there_for_who_wants_it() -> None:
    """A compiled module is one to Lightning, and what torch marks as not to be compiled is not."""
    code = """
from speedtrain.training.imports import import_lightning
L = import_lightning()
import torch
from lightning.pytorch.utilities.compile import from_compiled
from torch._dynamo.utils import counters
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)))
print(type(from_compiled(torch.compile(L.LightningModule(), backend="eager"))).__name__)
optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
counters.clear()

@torch.compile(backend="eager")
def work(x):
    y = x + 1
    optimizer.zero_grad()
    return y * 2

print(work(torch.ones(2)), sum(counters["graph_break"].values()) > 0)
"""
    assert printed_by(code) == ["tensor([2., 2.])", "LightningModule", "tensor([4., 4.]) True"]


def test_who_asks_for_more_while_lightning_is_imported_gets_it() -> None:
    code = """
import torch
from speedtrain.training.imports import COMPILER, CompilerStandIn, replace_modules
with replace_modules({COMPILER: CompilerStandIn(COMPILER)}):
    import torch._dynamo as compiler
    print(hasattr(compiler, "__file__"), isinstance(torch.nn.Linear(1, 1), compiler.OptimizedModule))
    print(compiler.graph_break.__module__)
import torch._dynamo
print(torch._dynamo is not compiler, isinstance(torch.compile(torch.nn.Linear(1, 1)), compiler.OptimizedModule))
"""
    assert printed_by(code) == ["False False", "torch._dynamo.decorators", "True True"]


def three_steps(kind: type[torch.optim.SGD]) -> torch.Tensor:
    """The weights that they lead to."""
    weights = [torch.nn.Parameter(torch.arange(6.0).view(2, 3)), torch.nn.Parameter(torch.ones(3))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}]
    optimizer = kind(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)  # type: ignore[arg-type]

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
