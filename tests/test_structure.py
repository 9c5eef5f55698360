"""How the source hangs together: imports run one way and in no circle, and no file is long without saying why."""

import ast
from pathlib import Path

import pytest

from speedtrain.submission.package import ROOMS, TOP_FILES

ROOT = Path(__file__).parent.parent
PACKAGES = ("speedtrain", "tricks", "timing")

FOUNDATION = (
    *("checked_types", "chosen_tricks", "config", "device", "errors", "files", "learning_rate_schedule", "machine"),
    *("member_configs", "ray_cluster", "starting_point", "thread_controller", "view"),
)
"""Rooms and modules of speedtrain that all the others may use."""

LAYERS = (
    ("data",),
    ("tracks",),
    ("network",),
    ("model",),
    ("training",),
    ("run",),
    ("export", "submission", "suspects"),
    ("ablation", "bench", "judge"),
    ("cli",),
    ("__main__",),
)
"""Rooms of speedtrain from the ground up: each may use those before it, and itself."""

LONGEST = 400
"""Lines of a file that need no reason."""
REASON = "one file because"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
MODULES = {
    name: ast.parse(path.read_text(encoding="utf-8"))
    for name, path in PATHS.items()
    if not name.startswith("speedtrain.submission.scripts")  # programs that a submission takes along
}


def imported_by(name: str, tree: ast.AST) -> set[str]:
    """Our modules that a module names in any import, those inside functions and for types alone included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            found.update({module} | names if names - PATHS.keys() else names)
    return {module for module in found if module in PATHS and module != name}


def run_on_import(tree: ast.Module) -> ast.Module:
    """The module without its functions, and without what is there for types alone."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'") else node

    return Strip().visit(ast.parse(ast.unparse(tree)))


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of the graph, empty where there is none."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for after in sorted(graph.get(node, ())):
                if found := search(after, [*path, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node, []))), [])


def room(name: str) -> str:
    """The part of speedtrain that a module is in."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("package", ["tricks", "timing"])
def test_a_package_for_others_imports_none_of_ours(package: str) -> None:
    for name, tree in MODULES.items():
        if name.split(".")[0] == package:
            assert {found.split(".")[0] for found in imported_by(name, tree)} <= {package}, name


def test_imports_of_the_application_run_downwards() -> None:
    height = {part: level for level, layer in enumerate(LAYERS) for part in layer}
    wrong = []
    for name, tree in MODULES.items():
        mine = room(name)
        if not name.startswith("speedtrain."):
            continue
        assert mine in height or mine in FOUNDATION, f"{name}: give its room a layer"
        for other in imported_by(name, tree):
            theirs = room(other)
            if not other.startswith("speedtrain.") or theirs in FOUNDATION or theirs == mine:
                continue
            if mine in FOUNDATION or height[theirs] >= height[mine]:
                wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_a_submission_takes_along_all_that_it_imports() -> None:
    taken = {*ROOMS, *(Path(file).stem for file in TOP_FILES)}
    scripts = sorted((ROOT / "speedtrain/submission/scripts").glob("*.py"))
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in scripts}
    trees |= {name: tree for name, tree in MODULES.items() if name.startswith("speedtrain.") and room(name) in taken}
    for name, tree in trees.items():
        for other in imported_by(name, tree):
            assert not room(other) or other.split(".")[0] != "speedtrain" or room(other) in taken, f"{name}: {other}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imported_by(name, run_on_import(tree)) for name, tree in MODULES.items()}
    assert not circle(graph)


def test_no_rooms_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, tree in MODULES.items():
        if name.startswith("speedtrain."):
            others = {room(other) for other in imported_by(name, tree) if other.startswith("speedtrain.")}
            graph.setdefault(room(name), set()).update(others - {room(name)})
    assert not circle(graph)


def test_the_check_for_circles_finds_one() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_a_long_file_says_why_it_is_one() -> None:
    scripts = {str(path.relative_to(ROOT)): path for path in (ROOT / "scripts").glob("*.py")}
    for name, path in {**PATHS, **scripts}.items():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > LONGEST:
            reason = " ".join((ast.get_docstring(ast.parse(text)) or "").lower().split())
            assert REASON in reason, f"{name}: {text.count(chr(10))} lines; split it, or say in its docstring why it is"
