"""The wheel holds what the tree holds: every module, the recipes, and the data that emoreg reads when it runs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> set[str]:
    """What is in a wheel that is built from the tree, but for its metadata."""
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools keeps its own build/ beside what it builds, and ships what an earlier one left there: from a copy.
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "emoreg", "recipes", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, tracked):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("emoreg-*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_every_module_is_in_it(names):
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "emoreg").rglob("*.py")}
    assert modules <= names
    assert len(modules) > 90


def test_recipes_are_in_it_under_their_own_name(names):
    assert {f"emoreg_recipes/{file.name}" for file in (ROOT / "recipes").glob("*.py")} <= names


def test_what_is_read_at_run_time_is_in_it(names):
    corpus = {
        f"emoreg/corpus/{name}.jsonl"
        for name in ("emotions", "neutral", "pressure", "pressure_replies", "severity", "vignettes")
    }
    checkpoint = {f"emoreg/sandbox/checkpoint/{file.name}" for file in (ROOT / "emoreg/sandbox/checkpoint").iterdir()}
    assert {"emoreg/py.typed", "emoreg/corpus/README.md", *corpus, *checkpoint} <= names
    assert "emoreg/sandbox/checkpoint/model.safetensors" in names


def test_nothing_else_is(names):
    assert {name.split("/")[0] for name in names} == {"emoreg", "emoreg_recipes"}
