"""`emoreg stories` from end to end: what it writes and says, and one line and exit code 2 for a mistake."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emoreg.cli import app
from emoreg.corpus import read_corpus
from emoreg.sandbox import organism
from emoreg.stories import Transformers

QUICK = ("--topics=2", "--per-topic=1", "--min-tokens=15", "--max-tokens=60", "--attempts=20")


@pytest.fixture(scope="module")
def speaker(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("organism")
    model, tokenizer = organism.load()
    model.config.max_position_embeddings = 512
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(model: Path, *options: str):
    return CliRunner().invoke(app, ["stories", str(model), "--output=out/s.jsonl", "--device=cpu", *options])


def test_stories_that_extract_reads_and_goes_on_with(speaker):
    result = run(speaker, *QUICK, "--emotions=calm, at ease")
    assert result.exit_code == 0, result.output
    assert "out/s.jsonl: 4 of 4 texts, 4 of them new; refused: " in result.output
    corpus = read_corpus("out/s.jsonl", group_field="topic")
    assert sorted((text.emotion, text.group) for text in corpus) == [
        (emotion, topic)
        for emotion in ("at ease", "calm")
        for topic in ("a bus that comes late", "moving into a new flat")
    ]
    result = run(speaker, *QUICK, "--emotions=calm,at ease,sad")
    assert "out/s.jsonl: 6 of 6 texts, 2 of them new" in result.output
    assert json.loads(Path("out/s.jsonl").read_text().splitlines()[-1])["model"] == str(speaker)


def test_emotions_that_stay_short_are_named(speaker):
    result = run(speaker, "--topics=1", "--per-topic=1", "--emotions=calm,sad", "--max-tokens=50", "--attempts=1")
    assert result.exit_code == 0, result.output
    assert "out/s.jsonl: 0 of 2 texts, 0 of them new; refused: 2 too short" in result.output
    assert "warning: still missing after --attempts 1: calm (1), sad (1); more of them go on" in result.output


def test_stopped_by_hand_it_says_how_to_go_on(speaker, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Transformers, "__call__", stopped)
    result = run(speaker, *QUICK, "--emotions=calm")
    assert result.exit_code == 130
    assert "stopped; the same command goes on with out/s.jsonl" in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--emotions=clam"], "unknown emotion 'clam'; did you mean 'calm'?"),
        (["--backend=tgi"], "--backend must be one of 'transformers', 'vllm', got 'tgi'"),
        (["--backend=vllm"], "--device and --device-map are for --backend transformers"),
        (["--gpus=2"], "--gpus is for --backend vllm"),
        (["--max-tokens=40"], "min_tokens must be at most max_tokens"),
        (["--output=s.txt"], "must end in .jsonl"),
        (["--neutral", "--max-tokens=600"], "lower max_tokens to"),
    ],
)
def test_a_mistake(speaker, options, said):
    result = run(speaker, *options)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert said in line
