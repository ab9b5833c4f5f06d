"""Imports go down only: stages, engine floor, middle floor, ground floor."""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from segtune.core.fingerprints import SOURCE, segtune_imports

FLOORS = {
    "ground": {
        "errors",
        "config",
        "atomic",
        "provenance",
        "distributed",
        "coco",
        "lora",
        "template",
        "schedule",
        "sampling",
    },
    "middle": {
        "roboflow",
        "archive",
        "sources",
        "splits",
        "conditions",
        "tokens",
        "format_coco",
        "format_yolo",
        "format_voc",
        "format_createml",
        "format_tensorflow",
        "format_sam2",
        "format_semantic",
        "objects",
        "categories",
        "images",
        "sam3_package",
        "model",
        "weights",
        "dataset",
        "losses",
        "adapter",
        "checkpoint",
        "history",
        "metrics",
        "bootstrap",
        "reporting",
        "targets",
        "peft_format",
        "augment",
        "overlays",
        "summary",
        "mask_decoding",
        "partial",
        "cgf1",
        "overlap",
        "calibration",
        "mistakes",
        "matches",
        "alarms",
        "ious",
        "predictions",
        "forgetting",
        "label_issues",
        "comparison",
        "gallery",
        "charts",
        "report",
    },
    "engine": {"engine", "inference", "training", "preflight", "selection"},
    "stages": {
        "download",
        "convert",
        "validate",
        "train",
        "merge",
        "predict",
        "evaluate",
        "subset",
        "learning_curve",
    },
}
LEVEL = {module: level for level, floor in enumerate(FLOORS.values()) for module in floor}
MODULES = sorted(path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__")


def imported_packages(module: str) -> set[str]:
    """The top-level packages that a module imports, anywhere in its code."""
    packages: set[str] = set()
    for node in ast.walk(ast.parse((SOURCE / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.partition(".")[0])
    return packages


def test_every_module_has_its_floor() -> None:
    assert set(MODULES) == set(LEVEL)


def test_the_readme_says_where_every_module_is() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    tree = set(re.findall(r"\w+", readme.partition("## Where things are")[2].partition("##")[0]))
    assert [m for m in MODULES if m not in tree and not m.startswith("format_")] == []


def test_the_package_has_no_folders() -> None:
    # `segtune_imports` and with it the fingerprints of code look at one folder only.
    assert sorted(SOURCE.glob("*/**/*.py")) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_downwards(module: str) -> None:
    shares_floor = module not in FLOORS["stages"]
    upwards = {
        name
        for name in segtune_imports(module)
        if LEVEL[name] > LEVEL[module] or (LEVEL[name] == LEVEL[module] and not shares_floor)
    }
    assert not upwards


def test_there_are_no_cycles() -> None:
    TopologicalSorter({module: segtune_imports(module) for module in MODULES}).prepare()


def test_lora_knows_torch_alone() -> None:
    assert imported_packages("lora") - sys.stdlib_module_names == {"torch", "segtune"}
    assert segtune_imports("lora") == {"errors"}


def test_one_module_imports_sam3() -> None:
    assert {module for module in MODULES if "sam3" in imported_packages(module)} == {"sam3_package"}


def test_nothing_outside_is_imported_relatively() -> None:
    # A relative import would escape the fingerprints of code.
    for path in Path(SOURCE).glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
