"""The command line on a small local model: what it writes, and one line and exit code 2 for every kind of bad input."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from emoreg import EmotionVectors
from emoreg.cli import app
from emoreg.cli.validate import _advice
from tests import tiny
from tests.model import architectures
from tests.ports import free_port
from tests.support import random_vectors

SCENES = {
    "desperate": ["Every way out was shut and the water rose to my chin.", "I begged them once more for one more day."],
    "calm": ["The lake lay still and I had nowhere to be at all.", "I set the cup down and let the slow rain fall."],
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A model folder, a corpus, neutral texts and training data."""
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    corpus = [{"emotion": emotion, "text": text} for emotion, texts in SCENES.items() for text in texts]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (tmp_path / "neutral.txt").write_text("The shop opens at nine.\n\nThe list has four lines.\n\nIt is on the table.")
    (tmp_path / "data").mkdir()
    rows = [{"prompt": "What is on the list?", "completion": f" There are {n} lines."} for n in range(8)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    random_vectors(model).save(tmp_path / "vectors")
    names = {
        "model": "model",
        "corpus": "corpus.jsonl",
        "neutral": "neutral.txt",
        "data": "data",
        "vectors": "vectors.safetensors",
    }
    return {key: tmp_path / name for key, name in names.items()}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


OPTIONS = ("neutral", "output", "from-token", "layers", "tokens-per-batch", "device-map", "resume-dir")


def extract(files, **changes):
    given = files | {"output": files["model"].parent / "out" / "v"} | changes
    options = [f"--{name}={given[name]}" for name in OPTIONS if name in given]
    return run("extract", given["model"], given["corpus"], *options)


def train(files, *overrides: str):
    config = files["data"].parent / "sft.yaml"
    config.write_text(
        f"""
model_name_or_path: {files["model"]}
dataset_name: {files["data"]}
vectors: {files["vectors"]}
output_dir: {files["data"].parent / "run"}
max_steps: 2
logging_steps: 1
per_device_train_batch_size: 2
learning_rate: 1.0e-3
report_to: none
bf16: false
use_cpu: true
"""
    )
    return run("train", "--config", config, *overrides)


def refused(result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line
    assert "Traceback" not in result.output


class TestExtract:
    """`emoreg extract` writes vectors, or says in one line why not."""

    def test_vectors_of_the_model(self, files):
        result = extract(files, **{"from-token": 5, "layers": "1-2,3"})
        assert result.exit_code == 0, result.output
        vectors = EmotionVectors.load(files["model"].parent / "out" / "v")
        assert vectors.emotions == ("desperate", "calm")
        assert vectors.layers == (1, 2, 3)
        assert vectors.provenance.counts == {"desperate": 2, "calm": 2, "neutral": 3}
        vectors.check(tiny.llama())

    def test_conversations_under_a_vision_language_model(self, files):
        architectures.fresh("llava", **architectures.FAMILIES["llava"].settings).save_pretrained(files["model"])
        asked = {"role": "user", "content": "How is it?"}
        talk = [
            {"emotion": emotion, "messages": [asked, {"role": "assistant", "content": text}]}
            for emotion, texts in SCENES.items()
            for text in texts
        ]
        files["corpus"].write_text("\n".join(map(json.dumps, talk)))
        result = extract(files, neutral=files["corpus"], **{"from-token": 5})
        assert result.exit_code == 0, result.output
        vectors = EmotionVectors.load(files["model"].parent / "out" / "v")
        assert vectors.provenance.model == str(files["model"])
        assert not vectors.reference_mask[:, : len("<user>How is it?<assistant>")].any()

    def test_a_model_that_is_spread_and_sums_that_are_kept(self, files):
        kept = files["model"].parent / "kept"
        result = extract(files, **{"from-token": 5, "device-map": "auto", "resume-dir": kept})
        assert result.exit_code == 0, result.output
        assert not list(kept.iterdir())

    @pytest.mark.parametrize("missing", ["corpus", "neutral", "model"])
    def test_a_missing_file(self, files, missing):
        refused(extract(files, **{missing: files["data"].parent / "absent"}), "absent")

    def test_an_empty_corpus(self, files):
        files["corpus"].write_text("")
        refused(extract(files), "corpus.jsonl")

    def test_a_corpus_with_one_emotion(self, files):
        files["corpus"].write_text(json.dumps({"emotion": "calm", "text": SCENES["calm"][0]}))
        refused(extract(files), "calm")

    def test_a_corpus_without_the_field(self, files):
        files["corpus"].write_text(json.dumps({"concept": "calm", "text": "x"}))
        refused(extract(files), "emotion", "concept")

    @pytest.mark.parametrize(("layers", "said"), [("9", "layer 9 is out of range: the model has 4 blocks"),
                                                  ("1-", "--layers takes block numbers")])  # fmt: skip
    def test_layers_that_are_not_there(self, files, layers, said):
        refused(extract(files, layers=layers), said)

    def test_an_output_folder_that_cannot_be_written(self, files):
        refused(extract(files, output=files["corpus"] / "v"), "cannot write to", "choose another --output")

    def test_nan_in_the_weights(self, files):
        model = tiny.llama()
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
        model.save_pretrained(files["model"])
        refused(extract(files), "layers.1.mlp.up_proj.weight")
        assert not list((files["model"].parent / "out").iterdir())


class TestValidate:
    """`emoreg validate` adds the evidence to the file and writes the page, on the shipped corpus or another."""

    def test_extracted_and_validated_on_the_shipped_corpus(self, files):
        vectors, page = files["model"].parent / "shipped.safetensors", files["model"].parent / "page.md"
        result = run("extract", files["model"], "--output", vectors, "--layers=1", "--estimator=lda")
        assert result.exit_code == 0, result.output
        made = EmotionVectors.load(vectors)
        assert len(made.emotions) == 24
        assert made.provenance.method.startswith("lda")
        result = run("validate", vectors, "--page", page, "--permutations=3", "--folds=2")
        assert result.exit_code == 0, result.output
        found = EmotionVectors.load(vectors)
        assert torch.equal(found.directions, made.directions)
        assert found.validation is not None
        assert found.validation["confounds"] == ["length", "role", "person", "topic"]
        assert found.validation["groups"] == 24
        assert found.validation["severity"]["templates"] == 12
        assert "0 of 24 emotions have layers to be trusted" in page.read_text(), "the model is random"

    def test_texts_of_ones_own(self, files):
        options = ("--corpus", files["corpus"], "--neutral", files["neutral"], "--folds=2", "--permutations=3")
        assert run("extract", files["model"], files["corpus"], "--neutral", files["neutral"], "--output",
                   files["vectors"], "--from-token=5").exit_code == 0  # fmt: skip
        result = run("validate", files["vectors"], files["model"], *options)
        assert result.exit_code == 0, result.output
        assert "each text a group of its own" in result.output

    @pytest.mark.parametrize(
        ("verdict", "said"),
        [
            (
                [1, 2],
                'trusted at layers 1, 2; to keep it down there: emoreg.regularize(trainer, "v", layers="trusted")',
            ),
            ([0, 1, 2, 3], 'trusted at all layers; to keep it down: emoreg.regularize(trainer, "v")'),
            ([], 'trusted at no layer, so only watch: emoreg.regularize(trainer, "v", penalties=[])'),
        ],
    )
    def test_what_to_do_with_the_verdict(self, verdict, said):
        judged = {"verdict": {"desperate": {"layers": verdict, "why": "planted"}}}
        vectors = replace(random_vectors(tiny.llama()), validation=judged)
        assert _advice(vectors, Path("v"), "desperate") == f"desperate: {said}"
        assert "not judged" in _advice(vectors, Path("v"), "calm")

    def test_a_corpus_of_other_emotions(self, files):
        before = files["vectors"].read_bytes()
        files["corpus"].write_text("\n".join(json.dumps({"emotion": e, "text": "One text."}) for e in ("odd", "calm")))
        refused(run("validate", files["vectors"], files["model"], "--corpus", files["corpus"]), "expected two or more")
        assert files["vectors"].read_bytes() == before


class TestImportAndExport:
    """Another library's directions become vectors, and vectors a control vector; else one line, and no file."""

    @staticmethod
    def bring(files, path, **changes):
        options = {"neutral": files["neutral"], "output": files["model"].parent / "brought" / "v"} | changes
        return run("import", path, files["model"], *[f"--{name}={value}" for name, value in options.items()])

    def test_out_and_in_again(self, files):
        control = files["model"].parent / "calm.gguf"
        result = run("export", files["vectors"], "--emotion=calm", f"--output={control}")
        assert result.exit_code == 0, result.output
        result = self.bring(files, control, emotion="serene")
        assert result.exit_code == 0, result.output
        brought = EmotionVectors.load(files["model"].parent / "brought" / "v")
        before = EmotionVectors.load(files["vectors"])
        assert (brought.emotions, brought.layers) == (("serene",), (1, 2, 3))
        assert torch.allclose(brought.directions[:, 0], before.directions[1:, before.index("calm")], atol=1e-6)
        brought.check(tiny.llama())

    def test_another_models_file(self, files):
        path = files["model"].parent / "wide.pt"
        torch.save(torch.ones(5, 64), path)
        refused(self.bring(files, path), "width 64, the model has 32")
        torch.save(torch.ones(9, 32), path)
        refused(self.bring(files, path), "layer 4 is out of range")

    @pytest.mark.parametrize("suffix", [".gguf", ".pt", ".svec", ".bin"])
    def test_a_damaged_file_leaves_nothing(self, files, suffix):
        path = files["model"].parent / f"damaged{suffix}"
        path.write_bytes(b"GGUF\x03\0\0\0" * 9)
        refused(self.bring(files, path), path.name)
        assert not (files["model"].parent / "brought").exists()

    def test_an_export_that_cannot_be(self, files):
        path = files["model"].parent / "x.gguf"
        refused(run("export", files["vectors"], "--emotion=clam", f"--output={path}"), "did you mean 'calm'")
        refused(run("export", files["vectors"], "--emotion=calm", f"--output={path}", "--scale=2"), "scale must be one")
        assert not path.exists()


class TestTrain:
    """`emoreg train` is the recipe: YAML, overrides, and errors in one line."""

    def test_two_steps(self, files):
        result = train(files, "--learning_rate", "1e-2", "--logging_steps", "2")
        assert result.exit_code == 0, result.output
        trained = files["data"].parent / "run"
        assert (trained / "model.safetensors").is_file()
        assert "emoreg/share" in result.output

    def test_a_missing_config(self, files):
        refused(run("train", "--config", files["data"] / "absent.yaml"), "absent.yaml")

    def test_missing_vectors(self, files):
        files["vectors"].unlink()
        refused(train(files), "no vectors at")

    def test_truncated_vectors(self, files):
        files["vectors"].write_bytes(files["vectors"].read_bytes()[:500])
        refused(train(files), "is no whole safetensors file")

    def test_vectors_that_are_no_safetensors(self, files):
        files["vectors"].write_text("these are not the tensors you are looking for " * 20)
        refused(train(files), "is no whole safetensors file")

    def test_vectors_of_another_model(self, files):
        random_vectors(tiny.llama(seed=3)).save(files["vectors"])
        refused(train(files), "weights are unrelated")

    def test_an_unknown_emotion(self, files):
        refused(train(files, "--emotion", "desprate"), "did you mean 'desperate'?")

    def test_a_layer_out_of_range(self, files):
        refused(train(files, "--emotion_layers", "1,12"), "layer 12 is out of range")

    def test_a_negative_weight(self, files):
        refused(train(files, "--hinge_weight", "-1"), "weight must be a finite number of at least 0, got -1.0")

    def test_an_unknown_scope(self, files):
        refused(train(files, "--scope", "replies"), "unknown scope 'replies'")

    def test_a_warmup_without_a_schedule(self, files):
        refused(train(files, "--term_warmup_steps", "5"), "need term_schedule linear or cosine")

    def test_the_traceback_on_request(self, files):
        result = run("--traceback", "train", "--config", files["data"] / "absent.yaml")
        assert isinstance(result.exception, FileNotFoundError)


def torchrun() -> list[str]:
    return ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def accelerate_launch() -> list[str]:
    plain = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]  # all of which it would warn about
    return ["accelerate.commands.launch", "--cpu", "--num_processes=2", f"--main_process_port={free_port()}", *plain]


class TestExtractOnRanks:
    """Two processes, as a launcher starts them."""

    def launch(self, files, launcher, *options):
        out = files["model"].parent / "out" / "v"
        command = [sys.executable, "-m", *launcher(), "-m", "emoreg", "extract", files["model"], files["corpus"],
                   "--neutral", files["neutral"], "--output", out, "--from-token", "5", *options]  # fmt: skip
        environment, here = os.environ | {"OMP_NUM_THREADS": "1"}, Path(__file__).parents[2]
        return subprocess.run(
            [str(c) for c in command], capture_output=True, text=True, cwd=here, env=environment, timeout=120
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("launcher", [torchrun, accelerate_launch])
    def test_one_file_one_bar_one_line(self, files, launcher, tmp_path):
        kept = tmp_path / "kept"
        result = self.launch(files, launcher, "--tokens-per-batch", 60, "--resume-dir", kept)
        assert result.returncode == 0, result.stderr
        file = tmp_path / "out" / "v.safetensors"
        vectors = EmotionVectors.load(file)
        assert [line for line in result.stdout.splitlines() if "2 emotions at 4 layers" in line] == [
            f"{file}: 2 emotions at 4 layers of width 32; are they real? emoreg validate {file}"
        ]
        # A bar is begun once; how often it is drawn until it is full depends on how long that takes.
        assert result.stderr.count("extract:   0%") == 1
        assert "7/7" in result.stderr
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["v.safetensors"]
        assert not list(kept.iterdir())
        assert extract(files, **{"from-token": 5, "tokens-per-batch": 60}).exit_code == 0
        alone = EmotionVectors.load(tmp_path / "out" / "v")
        torch.testing.assert_close(vectors.directions, alone.directions, rtol=0, atol=2e-7)

    @pytest.mark.slow
    def test_one_line_for_a_mistake(self, files):
        result = self.launch(files, torchrun, "--layers", "9")
        assert result.returncode != 0
        assert result.stderr.count("error: layer 9 is out of range") == 1
        result = self.launch(files, torchrun, "--device-map", "auto")
        assert result.stderr.count("error: --device-map is for one process") == 1


def test_help_teaches_each_command():
    for command in ("stories", "extract", "import", "export", "push", "train", "demo"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert len(result.output.splitlines()) > 8
    assert {"stories", "extract", "import", "export", "push", "train", "demo"} <= set(run("--help").output.split())


def test_in_a_process_of_its_own(files):
    """No traceback, code 2, and one line on stderr: what a shell sees."""
    command = [
        sys.executable,
        "-m",
        "emoreg",
        "extract",
        files["model"],
        "absent.jsonl",
        "--neutral",
        "x",
        "--output",
        "y",
    ]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
