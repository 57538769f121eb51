"""The script that prints the table of penalties on a real model runs, and prints every row of it."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY / "../shared"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, which a clone does not have")
def test_the_table_is_printed():
    script = REPOSITORY / "scripts/real_input.py"
    data = [
        "models/stories260K",
        "data/emotion_stories_15x25/all_stimuli.json",
        "data/tinystories/tinystories_1000.json",
    ]
    options = ["--emotion-field=concept", "--steps=1", "--default-steps=1", "--batch-size=2", "--max-length=64"]
    command = [sys.executable, str(script), *(str(SHARED / path) for path in data), *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert rows[:2] == ["run", "base"]
    assert len(rows) == 8
    assert "fresh AUC by block:" in printed
    assert "nan" not in printed
