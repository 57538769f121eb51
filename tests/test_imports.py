"""Which way imports point: down the ladder of ARCHITECTURE.md, into folders and not their files, never in a circle."""

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = {"matplotlib", "peft", "tensorboard", "trl", "wandb"}


def ladder(page: str) -> list[str]:
    """From the page's one block that is fenced as a ladder: each name may import those that come after it.

    What is behind a ``#`` is a word on the line, and no name.
    """
    (block,) = re.findall(r"^```ladder\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    written = re.findall(r"\w+", re.sub("#.*", "", block))
    # The public names come from below, and only the shell and the sandbox, which are users too, stand on them.
    above = written.index("sandbox") + 1
    return ["__main__", *written[:above], "__init__", *written[above:]]


LADDER = ladder((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))


def sources(folder: Path) -> dict[str, str]:
    """Every module under a folder, as ``emoreg.reading.scope`` or ``emoreg.reading.__init__``, and its source."""
    files = sorted(folder.rglob("*.py"))
    return {".".join(f.relative_to(folder.parent).with_suffix("").parts): f.read_text("utf-8") for f in files}


EMOREG = sources(ROOT / "emoreg")


def imported(source: str, modules: Mapping[str, str]) -> set[str]:
    """Which of the modules a source imports, wherever it does so: in a function, or for the type checker alone."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a folder may be a name in its `__init__` or, if there is none, a file or a folder.
            bound = names_in(node.module, modules)
            parts = {a.name: f"{node.module}.{a.name}" for a in node.names if a.name not in bound}
            names = [part for part in parts.values() if part in modules or f"{part}.__init__" in modules]
            names += [node.module] * (len(names) < len(node.names))
        else:
            continue
        found |= {name if name in modules else f"{name}.__init__" for name in names}
    return found & modules.keys()


def names_in(folder: str, modules: Mapping[str, str]) -> set[str]:
    """What a folder's ``__init__`` defines or imports from its files, wherever it does so."""
    nodes = list(ast.walk(ast.parse(modules.get(f"{folder}.__init__", ""))))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    brought = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module != folder]
    return defined | {alias.asname or alias.name for node in brought for alias in node.names}


def rung(module: str) -> str:
    return module.split(".")[1]


def folder(module: str) -> str:
    return module.rpartition(".")[0]


def upwards(modules: Mapping[str, str]) -> list[str]:
    """Imports that do not point to a later name of the ladder, and what has no place on it."""
    wrong = {f"{rung(module)} has no place on the ladder" for module in modules if rung(module) not in LADDER}
    for module, source in modules.items():
        for other in imported(source, modules):
            here, there = rung(module), rung(other)
            if {here, there} <= {*LADDER} and here != there and LADDER.index(here) > LADDER.index(there):
                wrong.add(f"{module} imports {there}")
    return sorted(wrong)


def into_files(users: Mapping[str, str], modules: Mapping[str, str]) -> list[str]:
    """Imports of another folder's file, where the folder is what is to be imported. Loose modules are files."""
    wrong = set()
    for module, source in users.items():
        for other in imported(source, modules):
            if not other.endswith(".__init__") and folder(other) not in ("emoreg", folder(module)):
                wrong.add(f"{module} imports {other}")
    return sorted(wrong)


def circles(modules: Mapping[str, str]) -> list[str]:
    """The first circle of imports found among the modules of each folder, ``__init__`` included."""
    found = []
    for here in sorted({folder(module) for module in modules}):
        inside = {module: source for module, source in modules.items() if folder(module) == here}
        try:
            TopologicalSorter({m: imported(source, modules) & inside.keys() for m, source in inside.items()}).prepare()
        except CycleError as error:
            found.append(" -> ".join(error.args[1][::-1]))
    return found


def heavy_after(code: str) -> set[str]:
    """Which of `HEAVY` a fresh interpreter has imported after running ``code``."""
    report = f"{code}\nimport sys\nprint(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


class TestImportEmoreg:
    def test_it_imports_no_trainer_tracker_or_plotting_library(self):
        assert heavy_after("import emoreg") == set()

    def test_the_check_can_fail(self):
        assert heavy_after("import emoreg, matplotlib") == {"matplotlib"}


class TestTheLadder:
    def test_every_folder_and_loose_module_has_its_place_and_no_other_has(self):
        assert len(EMOREG) > 50, "the package is not where this test looks"
        assert sorted({rung(module) for module in EMOREG}) == sorted(LADDER)

    def test_imports_point_down(self):
        assert upwards(EMOREG) == []

    def test_the_check_can_fail(self):
        modules = {
            "emoreg.reading.scope": "import emoreg.checks\nfrom emoreg.training import callback\nimport torch",
            "emoreg.reading.reader": "from emoreg.vectors import EmotionVectors",
            "emoreg.regularizer.term": "def f():\n    from emoreg.extraction import extract",
            "emoreg.extraction.__init__": "if TYPE_CHECKING:\n    from emoreg.regularizer.term import Term",
            "emoreg.novel": "",
            "emoreg.training.callback": "from emoreg import Hinge, checks",
            "emoreg.vectors.__init__": "",
            "emoreg.checks": "import emoreg.reading.scope",
            "emoreg.__init__": "from emoreg.training import callback",
        }
        assert upwards(modules) == [
            "emoreg.checks imports reading",
            "emoreg.extraction.__init__ imports regularizer",
            "emoreg.reading.scope imports training",
            "emoreg.training.callback imports __init__",
            "novel has no place on the ladder",
        ]


class TestFolders:
    def test_no_other_folder_imports_from_their_files(self):
        assert into_files(EMOREG | sources(ROOT / "recipes"), EMOREG) == []

    def test_the_check_can_fail(self):
        modules = {
            "emoreg.reading.scope": "from emoreg.reading.reader import Reader",
            "emoreg.training.callback": "from emoreg.reading import Scope, scope\nfrom emoreg import checks",
            "emoreg.training.reward": "from emoreg.reading.reader import Reader\nfrom emoreg.vectors import formats",
            "emoreg.reading.__init__": "",
            "emoreg.reading.reader": "",
            "emoreg.vectors.formats.__init__": "",
            "emoreg.checks": "",
            "emoreg.extraction.__init__": "from emoreg.extraction.extract import extract",
            "emoreg.extraction.extract": "",
            "emoreg.cli.vectors": "from emoreg.extraction import extract",
        }
        assert into_files(modules, modules) == [
            "emoreg.training.callback imports emoreg.reading.scope",
            "emoreg.training.reward imports emoreg.reading.reader",
        ]


class TestCircles:
    def test_no_folder_has_one(self):
        assert circles(EMOREG) == []

    def test_the_check_can_fail(self):
        modules = {
            "emoreg.reading.__init__": "from emoreg.reading.scope import Scope",
            "emoreg.reading.scope": "def f():\n    from emoreg.reading import batch",
            "emoreg.reading.batch": "from emoreg.reading import Scope",
            "emoreg.model.blocks": "import emoreg.model.hooks",
            "emoreg.model.hooks": "import emoreg.checks",
        }
        (circle,) = circles(modules)
        assert set(circle.split(" -> ")) == {name for name in modules if ".reading." in name}
