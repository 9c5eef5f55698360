"""A quicker import of Lightning."""

import contextlib
import importlib.metadata
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

UNUSED_BY_LIGHTNING = ("torchvision", "scipy", "matplotlib", "transformers")
"""Packages that torchmetrics, which Lightning imports, would import for metrics that nothing here computes: seconds of
a budget."""


def import_lightning() -> ModuleType:
    """The package `lightning`, without the packages that training does not use."""
    import torch  # noqa: F401  # first: it cannot be imported twice

    return import_without("lightning", *UNUSED_BY_LIGHTNING)


def import_without(name: str, *packages: str) -> ModuleType:
    """Imports a module inside `hide_packages`, or without it if that fails.

    It fails where something that the module imports is installed and cannot do without a hidden package. What was
    half imported then is imported anew.
    """
    before = {module.partition(".")[0] for module in sys.modules}
    try:
        with hide_packages(*packages):
            return importlib.import_module(name)
    except Exception as error:  # whatever a stranger's package raises
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        failed = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames} - before
        for module in [module for module in sys.modules if module.partition(".")[0] in failed]:
            del sys.modules[module]
        return importlib.import_module(name)


@contextlib.contextmanager
def hide_packages(*packages: str) -> Iterator[None]:
    """Inside, these packages look as if they were not installed. Those that are imported already stay visible."""
    hidden = {name for name in packages if name not in sys.modules}
    version = importlib.metadata.version

    def visible_version(distribution_name: str) -> str:  # some modules keep this function: later it is the true one
        if distribution_name in hidden:
            raise importlib.metadata.PackageNotFoundError(distribution_name)
        return version(distribution_name)

    importlib.metadata.version = visible_version
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        importlib.metadata.version = version
        for name in hidden:
            del sys.modules[name]
        hidden.clear()
