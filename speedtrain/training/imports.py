"""A quicker import of Lightning."""

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator

UNUSED_BY_LIGHTNING = ("torchvision", "scipy", "matplotlib")
"""Packages that Lightning would import and that training does not use: see `hide_packages`."""


@contextlib.contextmanager
def hide_packages(*packages: str) -> Iterator[None]:
    """Inside, these packages look as if they were not installed.

    torchmetrics, which Lightning imports, imports them for metrics that nothing here computes: more than a second of a
    budget. Packages that are imported already stay visible.
    """
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
