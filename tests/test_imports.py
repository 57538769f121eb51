"""Two rules about imports: `import emoreg` stays light, and inside the package imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import emoreg

PACKAGE = Path(emoreg.__file__).parent
HEAVY = {"matplotlib", "peft", "tensorboard", "trl", "wandb"}

# A module or subpackage may import those of its own row and of the rows above.
ROWS = [
    {"checks", "data", "files", "passes", "provenance", "ranks", "residual", "sharded", "vectors"},
    {"batch", "chat", "penalties", "projection", "reasoning", "schedules", "scope", "statistics"},
    {"config", "extraction", "formats", "parts", "reader", "reference", "regularizer", "stories", "term", "validation"},
    {"audit", "callback", "faults", "metrics", "publishing", "reward", "tracking", "trainers"},
    {"__init__", "__main__", "cli", "sandbox"},
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
# The sandbox stands on everything, and nothing but the command line stands on it.
MAY_IMPORT_SANDBOX = {"cli", "sandbox"}


def heavy_after(code: str) -> set[str]:
    """Which of `HEAVY` a fresh interpreter has imported after running ``code``."""
    report = f"{code}\nimport sys\nprint(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", report], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def imported(source: str) -> set[str]:
    """The emoreg modules and subpackages that a source file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "emoreg":
            names |= {f"emoreg.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    parts = [name.split(".") for name in names]
    # A name that is no module comes from the package's own `__init__`.
    return {p[1] if p[1:] and p[1] in ROW else "__init__" for p in parts if p[0] == "emoreg"}


def breaches(imports: dict[str, set[str]]) -> list[str]:
    """What is wrong with ``imports``: module or subpackage -> those that it imports."""
    wrong = [f"{name} has no place in ROWS" for name in imports if name not in ROW]
    for name, others in imports.items():
        wrong += [f"{name} imports {other}" for other in sorted(others) if ROW[other] > ROW.get(name, len(ROWS))]
        if "sandbox" in others and name not in MAY_IMPORT_SANDBOX:
            wrong.append(f"{name} imports sandbox")
    return sorted(set(wrong))


class TestImportEmoreg:
    def test_it_imports_no_trainer_tracker_or_plotting_library(self):
        assert heavy_after("import emoreg") == set()

    def test_the_check_can_fail(self):
        assert heavy_after("import emoreg, matplotlib") == {"matplotlib"}


class TestImportsPointOneWay:
    def test_in_every_file_of_the_package(self):
        imports: dict[str, set[str]] = {}
        for file in PACKAGE.rglob("*.py"):
            unit = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
            imports.setdefault(unit, set()).update(imported(file.read_text()))
        assert len(imports) > 10, "the package is not where this test looks"
        assert breaches(imports) == []

    def test_every_way_of_importing_is_seen(self):
        source = """
import emoreg.reading.scope
from emoreg.training.callback import RegularizerCallback
from emoreg import Hinge
from emoreg.vectors import emotion_vectors as vectors
import torch
def f():
    from emoreg.sandbox.world import World
"""
        assert imported(source) == {"scope", "callback", "vectors", "__init__", "sandbox"}

    def test_the_check_can_fail(self):
        assert breaches({"vectors": {"regularizer"}}) == ["vectors imports regularizer"]
        assert breaches({"audit": {"sandbox"}}) == ["audit imports sandbox"]
        assert breaches({"novel": {"vectors"}}) == ["novel has no place in ROWS"]
        assert breaches({"cli": {"sandbox", "audit"}, "callback": {"regularizer", "metrics"}}) == []
