"""The script that prints the table of penalties on a real model runs, and prints every row of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY / "../shared"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, which a clone does not have")
def test_the_table_is_printed(tmp_path):
    def some(path: str, wanted) -> Path:
        """A part of a file, so that the script has less to read."""
        texts = json.loads((SHARED / path).read_text())
        (tmp_path / Path(path).name).write_text(json.dumps([text for n, text in enumerate(texts) if wanted(n, text)]))
        return tmp_path / Path(path).name

    emotions = ("desperate", "calm", "afraid", "proud")
    corpus = some("data/emotion_stories_15x25/all_stimuli.json", lambda n, text: n % 2 and text["concept"] in emotions)
    neutral = some("data/tinystories/tinystories_1000.json", lambda n, _: n < 180)
    options = ["--emotion-field=concept", "--steps=1", "--default-steps=1", "--batch-size=2", "--max-length=64"]
    script = REPOSITORY / "scripts/real_input.py"
    command = [sys.executable, script, SHARED / "models/stories260K", corpus, neutral, *options]
    printed = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert rows[:2] == ["run", "base"]
    assert len(rows) == 8
    assert "fresh AUC by block:" in printed
    assert "nan" not in printed
