"""How much there is to know of the tree: few folders, each saying what it is for, and files that fit in a head."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "emoreg"
FOLDERS, LINES = 15, 250
LOOSE = {"__init__", "__main__", "checks", "files", "ranks"}


def folders(package: Path) -> list[Path]:
    return sorted({file.parent for file in package.rglob("*.py")} - {package})


def long(package: Path) -> dict[str, int]:
    """The files of more than `LINES` lines."""
    sizes = {str(f.relative_to(package)): len(f.read_text("utf-8").splitlines()) for f in package.rglob("*.py")}
    return {name: lines for name, lines in sizes.items() if lines > LINES}


def silent(package: Path) -> list[str]:
    """The folders whose ``__init__`` does not say what they are for."""
    inits = {folder.name: folder / "__init__.py" for folder in folders(package)}
    said = {
        name: init.is_file() and ast.get_docstring(ast.parse(init.read_text("utf-8"))) for name, init in inits.items()
    }
    return [name for name, docstring in said.items() if not docstring]


def test_there_are_few_folders():
    assert 10 < len([folder for folder in folders(PACKAGE) if folder.parent == PACKAGE]) <= FOLDERS


def test_no_module_lies_loose_but_those_that_are_used_everywhere():
    assert {file.stem for file in PACKAGE.glob("*.py")} == LOOSE


def test_no_file_is_long():
    assert long(PACKAGE) == {}


def test_each_folder_says_what_it_is_for():
    assert silent(PACKAGE) == []


@pytest.fixture
def package(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "__init__.py").write_text('"""What a is for."""\n')
    (tmp_path / "a" / "b" / "part.py").write_text("x = 1\n" * (LINES + 1))
    return tmp_path


def test_the_checks_can_fail(package):
    assert [folder.name for folder in folders(package)] == ["a", "b"]
    assert long(package) == {"a/b/part.py": LINES + 1}
    assert silent(package) == ["b"]
    (package / "a" / "b" / "__init__.py").write_text("from a import x\n")
    assert silent(package) == ["b"]
