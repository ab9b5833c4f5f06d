"""The plan of the package: commands at the top, wings below, imports only downward."""

import ast
import sys
from graphlib import TopologicalSorter
from itertools import chain

import pytest

from segtune.core.fingerprints import SOURCE, segtune_imports

# From the top; wings on one line do not import each other, and commands do not either.
ORDER = (
    ("commands",),
    ("training",),
    ("exports", "reports", "checks", "interchange"),
    ("evaluation", "model"),
    ("lora", "dataset"),
    ("core",),
)
LEVEL = {wing: level for level, wings in enumerate(ORDER) for wing in wings}
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if path.name != "__init__.py"
)
COMMANDS = [module for module in MODULES if "." not in module]
MAX_LINES = 400


def wing(module: str) -> str:
    return module.partition(".")[0] if "." in module else "commands"


def tree(module: str) -> ast.Module:
    return ast.parse(SOURCE.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8"))


def imported_packages(module: str) -> set[str]:
    """The top-level packages that a module imports, anywhere in its code."""
    packages: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.partition(".")[0])
    return packages


def test_every_folder_is_a_wing() -> None:
    assert {wing(module) for module in MODULES} == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    here = wing(module)
    upward = {
        name
        for name in segtune_imports(module)
        if LEVEL[wing(name)] < LEVEL[here]
        or (LEVEL[wing(name)] == LEVEL[here] and (wing(name) != here or here == "commands"))
    }
    assert not upward


def test_there_are_no_cycles() -> None:
    TopologicalSorter({module: segtune_imports(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("module", COMMANDS)
def test_every_module_at_the_top_is_a_command(module: str) -> None:
    functions = {node.name for node in tree(module).body if isinstance(node, ast.FunctionDef)}
    assert "main" in functions
    assert ast.unparse(tree(module).body[-1]) == "if __name__ == '__main__':\n    main()"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long(module: str) -> None:
    text = SOURCE.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8")
    assert len(text.splitlines()) <= MAX_LINES


def test_lora_layers_know_only_torch() -> None:
    modules = {"lora.adapted_linear", "lora.layers", "lora.inject"}
    for module in modules:
        assert imported_packages(module) - sys.stdlib_module_names <= {"torch", "segtune"}
        assert segtune_imports(module) <= {"core.errors", *modules}


def test_one_module_imports_sam3() -> None:
    importing = {module for module in MODULES if "sam3" in imported_packages(module)}
    assert importing == {"model.sam3_package"}


def test_nothing_is_imported_relatively() -> None:
    # A relative import would escape the fingerprints of code.
    nodes = chain.from_iterable(ast.walk(tree(module)) for module in MODULES)
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_packages_hold_no_code() -> None:
    # Fingerprints of code pass over `__init__.py`.
    for path in SOURCE.rglob("__init__.py"):
        docstring, *code = ast.parse(path.read_text("utf-8")).body
        assert isinstance(docstring, ast.Expr)
        assert all(ast.unparse(line).startswith("__version__ = ") for line in code)
