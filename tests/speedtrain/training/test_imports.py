"""What a quicker import does where packages need each other."""

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speedtrain.training.imports import import_without


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
    outer = import_without("outer", "heavy")
    assert outer.middle.heavy is None
    assert "heavy" not in sys.modules


@pytest.mark.usefixtures("packages")
def test_a_package_that_cannot_do_without_gets_what_it_needs() -> None:
    """transformers, which torchmetrics imports where it is installed, cannot do without some of what is hidden."""
    version = importlib.metadata.version
    picky = import_without("picky", "heavy")
    assert picky.needy.part.heavy.VALUE == 1
    assert importlib.metadata.version is version
