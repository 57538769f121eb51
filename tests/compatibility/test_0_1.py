"""What 0.1 promised: its names, its command line, its vectors file, and a checkpoint that a run goes on from."""

import json
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file

import emoreg
from emoreg import EmotionVectors
from emoreg.cli import app
from tests.compatibility import make

MADE = Path(__file__).parent / "0.1"
ENDED = json.loads((MADE / "ended.json").read_text())

NAMES = [
    "Anchor", "Band", "EmotionReward", "EmotionVectors", "Hinge", "Reasoning", "Regularizer", "RegularizerCallback",
    "Target", "default_penalties",
]  # fmt: skip
"""`emoreg.__all__` of 0.1."""

COMMANDS = {
    "stories": "model --output --emotions --topics --per-topic --neutral --backend --attempts --min-tokens "
               "--max-tokens --temperature --top-p --seed --batch-size --gpus --dtype --device --device-map",
    "extract": "model --output corpus --neutral --text-field --emotion-field --estimator --rank --layers --from-token "
               "--denoise --tokens-per-batch --dtype --device --device-map --resume-dir",
    "validate": "vectors model --corpus --neutral --page --emotions --text-field --emotion-field --group-field "
                "--trait-fields --folds --permutations --tokens-per-batch --seed --dtype --device --device-map",
    "import": "file model --output --neutral --emotion --offset --text-field --dtype --device",
    "export": "vectors --emotion --output --scale",
    "push": "vectors repo_id --private",
    "train": "options",
    "demo": "--output --seed",
}  # fmt: skip
"""Its commands, with their arguments, in order, and options; before any of them, ``--traceback``."""

CONFIG = [
    "vectors", "emotion", "hinge_weight", "hinge_threshold", "anchor_weight", "anchor_every", "scope",
    "reasoning_markers", "emotion_layers", "monitor", "term_schedule", "term_warmup_steps", "term_total_steps",
    "target_at_most", "target_above_base", "target_task_budget", "non_finite",
]  # fmt: skip
"""The fields of `RegularizerConfig`: keys of users' YAML files, and options of `emoreg train`."""


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_each_is_still_imported_from_emoreg(self, name):
        assert name in emoreg.__all__
        assert getattr(emoreg, name).__name__ == name

    def test_every_option_of_the_config_is_there(self):
        from emoreg.training import RegularizerConfig

        assert set(CONFIG) <= set(RegularizerConfig.__dataclass_fields__)


class TestCommands:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_takes_what_it_took(self, name):
        group = typer.main.get_command(app)
        params = group.get_command(typer.Context(group), name).params
        said = COMMANDS[name].split()
        arguments = [p for p in params if p.param_type_name == "argument"]  # which have a place, not a name
        assert len(arguments) == len([one for one in said if one[0] != "-"])
        assert {one for one in said if one[0] == "-"} <= {option for p in params for option in p.opts}

    def test_the_traceback_can_be_asked_for(self):
        assert "--traceback" in {option for p in typer.main.get_command(app).params for option in p.opts}


class TestVectors:
    @pytest.fixture
    def vectors(self):
        return EmotionVectors.load(MADE / "organism.safetensors")

    def test_every_value_is_the_one_that_was_written(self, vectors, tmp_path):
        assert make.digests(MADE / "organism.safetensors") == ENDED["digests"], "the file is not the one that was made"
        for name, written in load_file(MADE / "organism.safetensors").items():
            sample = name.removeprefix("weights/")
            assert torch.equal(written, vectors.weights[sample] if sample != name else getattr(vectors, name)), name
        assert (vectors.emotions, vectors.layers) == (make.EMOTIONS, (1, 2))
        assert vectors.provenance.versions["emoreg"] == "0.1.0"
        assert vectors.provenance.counts == dict.fromkeys(make.EMOTIONS, 24) | {"neutral": 60}
        assert vectors.validation["verdict"].keys() == set(make.EMOTIONS)

    def test_they_read_what_they_read(self, vectors):
        assert make.losses(vectors) == pytest.approx(ENDED["losses"], abs=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # its code is 0.1's, word for word
class TestCheckpoint:
    """To 1e-6, not to the last bit: another CPU's kernels round otherwise. On the one that made it they are equal."""

    @pytest.fixture
    def vectors(self):
        return EmotionVectors.load(MADE / "tiny.safetensors")

    def test_a_resumed_run_ends_where_the_unbroken_one_did(self, vectors, tmp_path):
        weights, figures = make.train(tmp_path, vectors, MADE / "checkpoint-5")
        torch.testing.assert_close(weights, load_file(MADE / "ended.safetensors"), rtol=0, atol=1e-6)
        assert len(figures) == len(ENDED["figures"]) == make.STEPS // make.LOGS
        for n, (now, then) in enumerate(zip(figures, ENDED["figures"], strict=True), start=1):
            if n * make.LOGS > make.SAVED:  # what was logged before is in the checkpoint
                then = {name: value - base_of(vectors, name) for name, value in then.items()}
            assert {name: now[name] for name in then} == pytest.approx(then, abs=1e-5, rel=1e-5)
        factors = [log["emoreg/target/factor"] for log in ENDED["figures"]]
        assert len(set(factors)) == len(factors), "the loop did not move"

    def test_the_unbroken_run_ends_there_too(self, vectors, tmp_path):
        weights, _ = make.train(tmp_path, vectors)
        torch.testing.assert_close(weights, load_file(MADE / "ended.safetensors"), rtol=0, atol=1e-6)

    def test_with_another_state_it_would_not(self, vectors, tmp_path):
        checkpoint = tmp_path / "checkpoint-5"
        checkpoint.mkdir()
        for file in (MADE / "checkpoint-5").iterdir():
            (checkpoint / file.name).write_bytes(file.read_bytes())
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        kept = state["stateful_callbacks"]["RegularizerCallback"]["attributes"]["term"]
        kept["loop"]["log_factor"] += 0.1
        kept["statistics"]["numbers"]["task"][0] += 1.0
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        weights, figures = make.train(tmp_path, vectors, checkpoint)
        ended = load_file(MADE / "ended.safetensors")
        assert max((weights[name] - ended[name]).abs().max() for name in weights) > 1e-5
        assert figures[2]["emoreg/task"] != pytest.approx(ENDED["figures"][2]["emoreg/task"], abs=1e-3)


def base_of(vectors: EmotionVectors, name: str) -> float:
    """What `neutral` has been measured from since: the base model's mean z of the reference text. 0.1 took 0."""
    if not name.endswith("/neutral"):
        return 0.0
    _, emotion, *layer, _ = name.split("/")
    base_LK = vectors.reference_z[vectors.reference_mask].mean(0)
    of_layers = base_LK[:, vectors.index(emotion)]
    return (of_layers[vectors.layers.index(int(layer[0][len("layer_") :]))] if layer else of_layers.mean()).item()
