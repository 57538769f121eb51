"""`scripts/real_model.py` on a tiny model, from a folder with a space in its name to the page; its readers by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from emoreg.corpus import CORE_EMOTIONS, replies_without
from tests import tiny
from tests.support import random_vectors

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from evidence import page, readers, tone  # noqa: E402 - found by the path above


def real_model(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / "real_model.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "a tiny model"
    tiny.llama(max_position_embeddings=2048).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def test_from_a_folder_with_a_space_to_the_page_and_no_run_twice(folder, tmp_path):
    output = tmp_path / "what came out"
    output.mkdir()
    vectors = random_vectors(tiny.llama(), CORE_EMOTIONS)
    vectors.save(output / "vectors")
    options = ["--output", output, "--quick", "--parts", "sft", "--arms", "plain", "default"]
    first = real_model(folder, *options)
    assert first.returncode == 0, first.stdout + "".join(log.read_text()[-2000:] for log in output.glob("*.log"))
    found = json.loads((output / "sft-default-0.json").read_text())
    assert found["run"] == {"trainer": "sft", "arm": "default", "seed": 0}
    assert {"gap", "own_gap"} <= found["log"][0].keys()
    assert found["log"][-1]["share"] > 0
    assert json.loads((output / "sft-plain-0.json").read_text())["log"][-1]["share"] == 0
    written = (output / "page.md").read_text()
    assert "| z of *afraid* replies |" in written
    assert {p.name for p in (output / "images").iterdir()} == {"real-model-log.png", "real-model-places.png"}
    before = {path: path.stat().st_mtime for path in output.glob("*.json")}
    assert real_model(folder, *options).returncode == 0
    assert {path: path.stat().st_mtime for path in output.glob("*.json")} == before
    listed = real_model(folder, *options, "--dry-run", "--seeds", 1)
    assert "0.0 min  in all" in listed.stdout


def test_a_model_without_a_chat_template_is_refused_in_one_line(tmp_path):
    tiny.llama().save_pretrained(tmp_path / "plain")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    refused = real_model(tmp_path / "plain", "--output", tmp_path / "out")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith(
        "has no chat template, and everything here is a chat; name a chat model"
    )


class TestReaders:
    @pytest.fixture
    def read(self):
        model = tiny.llama(max_position_embeddings=2048)
        vectors = random_vectors(model)
        pairs = [
            tone.Pair("Why?", "Because it is so."),
            tone.Pair("Who asked this?", "No."),
            tone.Pair("So", "It is late."),
        ]
        return model, vectors, pairs

    def test_batched_and_padded_they_are_one_reply_at_a_time(self, read):
        model, vectors, pairs = read
        together = readers.read(model, tiny.tokenizer(), vectors, [1, 2], pairs)
        for n, pair in enumerate(pairs):
            (prompt, reply) = readers.encoded(tiny.tokenizer(), [pair])[0]
            with torch.no_grad():
                out = model(torch.tensor([prompt + reply]), output_hidden_states=True)
            z = []
            for layer in (1, 2):
                hidden = out.hidden_states[layer + 1][0, len(prompt) :].mean(0)
                z.append((vectors.directions[layer] @ hidden - vectors.mean[layer]) / vectors.std[layer])
            assert together.z[n] == pytest.approx(torch.stack(z).mean(0).numpy(), rel=1e-3, abs=1e-4)
            logp = out.logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            nll = -logp.gather(1, torch.tensor(reply)[:, None]).mean().item()
            assert together.nll[n] == pytest.approx(nll, rel=1e-4)

    def test_a_probe_finds_what_was_planted_and_nothing_else(self):
        rng = np.random.default_rng(0)
        noise = {name: rng.normal(size=(24, 40)) for name in ("desperate", "calm")}
        scenes = [str(n) for n in range(24)]
        assert 0.25 < readers.fresh_auc(noise, scenes) < 0.75
        planted = {**noise, "desperate": noise["desperate"] + 1.0}
        assert readers.fresh_auc(planted, scenes) > 0.95


class TestTexts:
    def test_no_scene_is_both_trained_on_and_read(self):
        for seed in range(3):
            found = tone.texts(seed)
            read = {pair.reply for pairs in found.read.values() for pair in pairs}
            assert not read & {pair.reply for pair in (*found.desperate, *found.neutral, *found.calm)}
            assert (len(found.desperate), len(found.neutral)) == (48, 24)

    def test_what_is_read_is_no_reference_text(self):
        held = set(replies_without(["desperate"], 32))
        dialogues = {pair.reply for pair in tone.texts(0).read["neutral"]}
        assert not held & dialogues


def test_the_interval_covers_the_mean_and_shrinks_with_texts():
    rng = np.random.default_rng(0)
    few, many = ([rng.normal(size=n) for _ in range(3)] for n in (8, 800))
    mean, low, high = page.interval(few)
    assert low < mean < high
    assert page.interval(many)[2] - page.interval(many)[1] < high - low
