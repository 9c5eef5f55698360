"""A quicker import of Lightning."""

import contextlib
import functools
import importlib.metadata
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

UNUSED_BY_LIGHTNING = ("torchvision", "scipy", "matplotlib", "transformers")
"""Packages that torchmetrics, which Lightning imports, would import for metrics that nothing here computes: seconds of
a budget."""
COMPILER = "torch._dynamo"
"""The package of torch that compiles networks. To import it takes nearly half of the time that training needs for its
imports, and nothing here compiles."""


def import_lightning() -> ModuleType:
    """The package `lightning`, without the packages that training does not use.

    Whoever uses the compiler in this process later gets it whole.
    """
    import torch  # noqa: F401  # first: it cannot be imported twice

    stand_ins: dict[str, ModuleType | None] = dict.fromkeys(UNUSED_BY_LIGHTNING)
    lightning = import_without("lightning", {**stand_ins, COMPILER: CompilerStandIn(COMPILER)})
    spare_optimizers_the_compiler()
    return lightning


class LaterClass(type):
    """A class whose instances are those of the compiler's `OptimizedModule`; none while it is not imported."""

    def __instancecheck__(cls, instance: object) -> bool:
        compiler = imported_compiler()
        return compiler is not None and isinstance(instance, compiler.OptimizedModule)


class CompilerStandIn(ModuleType):
    """What Lightning takes from the compiler. Whoever wants more of it gets the true one."""

    OptimizedModule = LaterClass("OptimizedModule", (), {})

    @staticmethod
    def disable(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Callable[..., Any]:
        return not_compiled if function is None else not_compiled(function)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # every import asks for some
            raise AttributeError(name)
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(importlib.import_module(COMPILER), name)


def imported_compiler() -> Any:
    """The true one; None while nobody has imported it."""
    compiler = sys.modules.get(COMPILER)
    return None if isinstance(compiler, CompilerStandIn) else compiler


def not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; where there is a compiler, marked as not to be compiled."""

    @functools.wraps(function)
    def marked(*arguments: Any, **options: Any) -> Any:
        compiler = imported_compiler()
        if compiler is None:
            return function(*arguments, **options)
        return compiler.disable(function)(*arguments, **options)

    return marked


def spare_optimizers_the_compiler() -> None:
    """Gives the methods of optimizers the mark that torch imports the compiler for, at their first call.

    Where another version of torch knows no such mark, it goes on importing it.
    """
    import torch

    by_torch = getattr(torch, "_disable_dynamo", None)
    if by_torch is None:
        return
    to_be_marked = by_torch(len).__code__
    for method in vars(torch.optim.Optimizer).values():
        if getattr(method, "__code__", None) is to_be_marked:
            method.__wrapped__.__dynamo_disable = not_compiled(method.__wrapped__)


def import_without(name: str, stand_ins: Mapping[str, ModuleType | None]) -> ModuleType:
    """Imports a module inside `replace_modules`, or without it if that fails.

    It fails where something that the module imports is installed and cannot do without what is hidden. What was half
    imported then is imported anew.
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
        for name, stand_in in replaced.items():
            if name in sys.modules and sys.modules[name] is stand_in:
                del sys.modules[name]
        replaced.clear()
