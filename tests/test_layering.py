"""Dependencies run one way. Imports are read from the source, so that nothing needs to be installed to check them."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from exporters import EXPORTERS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("compressor", "exporters")

# Each floor may import from the ones before it and from itself.
FLOORS = (
    {"errors", "files", "dotted", "printable", "progress", "choices", "presets", "plugins", "kinds", "machine"}
    | {"batch", "attack"},
    {"methods", "models", "generators"},
    {"recipe"},
    {"data", "training", "runs"},
    {"checkpoint", "tracking"},
    {"inputs"},
    {"measure"},
    {"artifacts", "difference"},
    {"bench"},
    {"gates", "report", "doctor"},
    {"pipeline"},
    {"api"},
    {"cli"},
    {"__main__"},
)


def modules() -> dict[str, Path]:
    """Every module of the repository, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def guarded(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, whose imports are never executed."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST, *, everywhere: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports below a node that are executed: when it is imported, or `everywhere` also when functions run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif guarded(child):
            for alternative in child.orelse:
                yield from statements(ast.Module([alternative], []), everywhere=everywhere)
        elif everywhere or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(child, everywhere=everywhere)


def imports(name: str, *, everywhere: bool) -> set[str]:
    """The modules that a module imports, ours as they are and others by their full name."""
    found = set()
    for statement in statements(tree(name), everywhere=everywhere):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
            continue
        source = statement.module or ""
        if statement.level:
            base = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
            base = base[: len(base) - statement.level + 1]
            source = ".".join([*base, *filter(None, [statement.module])])
        submodules = {f"{source}.{alias.name}" for alias in statement.names} & MODULES.keys()
        others = {alias.name for alias in statement.names if f"{source}.{alias.name}" not in MODULES}
        found |= submodules | ({source} if others else set())
    return found


def executed(name: str) -> set[str]:
    """All modules, of ours and others, that importing `name` may execute."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        parents = [".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 1)]
        for each in (module, *parents):
            if each not in seen:
                seen.add(each)
                waiting.extend(imports(each, everywhere=False) if each in MODULES else ())
    return seen


def part(name: str) -> str:
    """`compressor.models.resnet` is of the part `models`."""
    return name.split(".")[1] if "." in name else ""


def floor(name: str) -> int:
    return next(number for number, parts in enumerate(FLOORS) if part(name) in parts)


def ours(name: str, package: str) -> set[str]:
    return {module for module in imports(name, everywhere=True) if module.split(".")[0] == package}


# The reader itself.


def test_the_reader_finds_the_imports_of_this_repository():
    assert len(MODULES) > 20
    assert "exporters.errors" in imports("exporters.files", everywhere=False)
    assert "torch" in imports("exporters.onnx.tracing", everywhere=True)
    assert "torch" not in imports("exporters.onnx.tracing", everywhere=False)  # inside a function
    assert "exporters.onnx.session" in executed("exporters.onnx.runner")
    assert "exporters" in executed("exporters.onnx")


@pytest.mark.parametrize(
    ("source", "at_import", "ever"),
    [
        ("import a.b", {"a.b"}, {"a.b"}),
        ("from a import b as c", {"a"}, {"a"}),
        ("def f():\n    import a", set(), {"a"}),
        ("try:\n    import a\nexcept ImportError:\n    import b", {"a", "b"}, {"a", "b"}),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", {"b"}, {"b"}),
        ("class C:\n    import a\n    def f(self):\n        import b", {"a"}, {"a", "b"}),
        ("from .. import a\nfrom .b import c", {"exporters", "exporters.deep.b"}, {"exporters", "exporters.deep.b"}),
        ("from exporters import errors", {"exporters.errors"}, {"exporters.errors"}),
    ],
)
def test_the_reader_tells_imports_that_run_at_once_from_those_that_may_run(
    monkeypatch, tmp_path, source, at_import, ever
):
    path = tmp_path / "x.py"
    path.write_text(source)
    monkeypatch.setitem(MODULES, "exporters.deep.x", path)
    tree.cache_clear()
    assert imports("exporters.deep.x", everywhere=False) == at_import
    assert imports("exporters.deep.x", everywhere=True) == ever
    tree.cache_clear()


# The rules.


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("exporters")])
def test_exporters_know_nothing_of_the_compressor(name):
    assert ours(name, "compressor") == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("compressor.")])
def test_a_module_imports_only_from_its_own_floor_and_those_before_it(name):
    above = {
        module for module in ours(name, "compressor") - {"compressor"} if part(module) and floor(module) > floor(name)
    }
    assert above == set()


def test_every_part_stands_on_one_floor_and_every_floor_is_there():
    parts = [each for floor in FLOORS for each in floor]
    assert sorted(parts) == sorted({part(name) for name in MODULES if name.startswith("compressor.")})


def test_nothing_imports_the_command_line_but_its_start():
    users = {name for name in MODULES if any(part(module) == "cli" for module in ours(name, "compressor"))}
    assert {name for name in users if part(name) not in ("cli", "__main__")} == set()


def test_the_loop_does_not_know_the_data():
    assert {name for name in ours("compressor.training.loop", "compressor") if part(name) == "data"} == set()


def test_methods_do_not_know_the_recipe():
    users = [name for name in MODULES if name.startswith("compressor.methods")]
    assert users
    assert {module for name in users for module in ours(name, "compressor") if part(module) == "recipe"} == set()


@pytest.mark.parametrize(
    "name",
    [
        *("compressor", "compressor.cli", "compressor.errors", "compressor.__main__", "compressor.doctor", "exporters"),
        "compressor.artifacts.formats",
        *sorted({place.partition(":")[0] for place in EXPORTERS.values()}),  # whose facts must cost nothing
    ],
)
def test_starting_imports_nothing_heavy(name):
    assert name in MODULES
    heavy = {"torch", "torchvision", "onnx", "onnxruntime", "numpy", "sklearn", "matplotlib"}
    assert {module.split(".")[0] for module in executed(name)} & heavy == set()


def test_no_parts_of_the_compressor_import_each_other_in_a_circle():
    edges: dict[str, set[str]] = {}
    for name in MODULES:
        if name.startswith("compressor."):
            used = {part(module) for module in ours(name, "compressor")} - {part(name), ""}
            edges.setdefault(part(name), set()).update(used)
    while leaves := [name for name, used in edges.items() if not used & edges.keys()]:
        for name in leaves:
            del edges[name]
    assert edges == {}


# What is tested.


@cache
def imported_by_tests() -> set[str]:
    """The modules of this repository that a test file imports, their packages included."""
    found: set[str] = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for statement in statements(ast.parse(path.read_text(encoding="utf-8")), everywhere=True):
            if isinstance(statement, ast.Import):
                names = {alias.name for alias in statement.names}
            else:
                names = {f"{statement.module}.{alias.name}" for alias in statement.names}
            for name in names:
                found |= {".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 2)}
    return found


@pytest.mark.parametrize("name", sorted(name for name, path in MODULES.items() if path.name == "__init__.py"))
def test_each_folder_of_the_packages_is_imported_by_a_test(name):
    assert name in imported_by_tests()
