"""Help comes at once: nothing that takes seconds to import is imported for it."""

import subprocess
import sys

import pytest
import typer

from emoreg.cli import app

SLOW = {"accelerate", "datasets", "huggingface_hub", "matplotlib", "numpy", "peft", "sklearn", "torch", "transformers"}
SLOW |= {"trl", "wandb"}
COMMANDS = sorted(typer.main.get_command(app).commands)


def imported_by(code: str) -> set[str]:
    """The libraries that a fresh interpreter has imported after running some code."""
    report = f"try:\n    {code}\nexcept SystemExit:\n    pass\nimport sys\nprint('|', *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.rpartition("|")[2].split()}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_brings_in_nothing_slow(command):
    arguments = ["emoreg", *command.split(), "--help"]
    found = imported_by(f"import sys; sys.argv = {arguments!r}; from emoreg.cli import main; main()")
    assert "typer" in found
    assert found & SLOW == set()


def test_import_emoreg_brings_in_the_standard_library_alone():
    alone = imported_by("pass")
    assert imported_by("import emoreg") - alone - sys.stdlib_module_names == {"emoreg"}


def test_the_check_can_fail():
    assert "torch" in imported_by("import emoreg; emoreg.Hinge")


def test_every_public_name_can_be_had_and_listed():
    import emoreg

    assert all(getattr(emoreg, name) for name in emoreg.__all__)
    assert set(emoreg.__all__) <= set(dir(emoreg))
    with pytest.raises(AttributeError, match="module 'emoreg' has no attribute 'Hinges'"):
        emoreg.Hinges  # noqa: B018 - the look-up is what is tested
