"""What `pyproject.toml` says must be what the folders hold."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DISTRIBUTION = {"sklearn": "scikit-learn", "yaml": "pyyaml"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> list[Path]:
    return [*(ROOT / "emoreg").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]


def test_every_folder_of_code_is_shipped(project):
    folders = {".".join(file.relative_to(ROOT).parent.parts) for file in sources()}
    renamed = {folder.replace("recipes", "emoreg_recipes") for folder in folders}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(renamed)


def test_every_library_that_is_imported_is_asked_for(project):
    extras = [line for lines in project["project"]["optional-dependencies"].values() for line in lines]
    declared = {re.split(r"[\[<>=]", line)[0] for line in project["project"]["dependencies"] + extras}
    used = set()
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split(".")[0])
    used -= {*sys.stdlib_module_names, "emoreg", "emoreg_recipes"}
    assert {"torch", "transformers"} <= used
    assert {DISTRIBUTION.get(name, name) for name in used} <= declared


def test_every_requirement_has_its_pin(project):
    extras = [line for lines in project["project"]["optional-dependencies"].values() for line in lines]
    declared = {re.split(r"[\[<>=]", line)[0] for line in project["project"]["dependencies"] + extras} - {"emoreg"}
    lines = (ROOT / "scripts/constraints.txt").read_text().splitlines()
    pins = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert declared <= pins
