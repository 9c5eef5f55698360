"""A quicker import of Lightning."""

import contextlib
import importlib.metadata
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

UNUSED_BY_LIGHTNING = ("torchvision", "scipy", "matplotlib", "transformers")
"""Packages that torchmetrics, which Lightning imports, would import for metrics that nothing here computes: seconds of
a budget."""
COMPILER = "torch._dynamo"
"""The package of torch that compiles networks. Nothing here does: nearly half of the seconds that imports take."""


def import_lightning() -> ModuleType:
    """The package `lightning`, without the packages that training does not use.

    A network that `torch.compile` has made is none to this Lightning. All else may compile as ever.
    """
    import torch  # noqa: F401  # first: it cannot be imported twice

    stand_ins: dict[str, ModuleType | None] = dict.fromkeys(UNUSED_BY_LIGHTNING)
    lightning = import_without("lightning", {**stand_ins, COMPILER: compiler_stand_in()})
    leave_optimizers_alone()
    return lightning


def compiler_stand_in() -> ModuleType:
    """What Lightning takes from the compiler: a class, of which there will be no instance, and a mark on functions."""

    def disable(function: Any, *_: object, **__: object) -> Any:
        return function

    stand_in: Any = ModuleType(COMPILER)
    stand_in.OptimizedModule = type("OptimizedModule", (), {})
    stand_in.disable = disable
    return stand_in


def leave_optimizers_alone() -> None:
    """Marks the functions of optimizers as not to be compiled, as torch does it at their first call.

    It imports the compiler for it. Where another version of torch knows no such mark, it goes on doing so.
    """
    import torch

    for function in vars(torch.optim.Optimizer).values():
        if (plain := getattr(function, "__wrapped__", None)) is not None:
            plain.__dynamo_disable = plain


def import_without(name: str, stand_ins: Mapping[str, ModuleType | None]) -> ModuleType:
    """Imports a module inside `replace_modules`, or without it if that fails.

    It fails where something that the module imports is installed and cannot do without a hidden package. What was
    half imported then is imported anew.
    """
    before = {module.partition(".")[0] for module in sys.modules}
    try:
        with replace_modules(stand_ins):
            return importlib.import_module(name)
    except Exception as error:  # whatever a stranger's package raises
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        failed = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames} - before
        for module in [module for module in sys.modules if module.partition(".")[0] in failed]:
            del sys.modules[module]
        return importlib.import_module(name)


@contextlib.contextmanager
def replace_modules(stand_ins: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Inside, each module is its stand-in, or for None looks as if it was not installed.

    Those that are imported already stay as they are.
    """
    replaced = {name: stand_in for name, stand_in in stand_ins.items() if name not in sys.modules}
    version = importlib.metadata.version

    def visible_version(distribution_name: str) -> str:  # some modules keep this function: later it is the true one
        if distribution_name in replaced:
            raise importlib.metadata.PackageNotFoundError(distribution_name)
        return version(distribution_name)

    importlib.metadata.version = visible_version
    sys.modules.update(replaced)  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        importlib.metadata.version = version
        for name in replaced:
            del sys.modules[name]
        replaced.clear()
