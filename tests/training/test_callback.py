"""The metrics of a run, wherever its trainer reports: history, W&B's file on disk, TensorBoard's event file."""

from pathlib import Path

import pytest
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emoreg import Hinge, Regularizer, RegularizerCallback, default_penalties
from emoreg.reading.statistics import FIGURES
from tests.support import EMOTIONS, padded, random_vectors, sft_trainer, uneven_rows
from tests.tracking import wandb_file


def train(model, tokenizer, tmp_path, penalties, vectors=None, gradient_every=10, references="rows", **options):
    trainer = sft_trainer(model, tokenizer, tmp_path, **options)
    regularizer = Regularizer(vectors or random_vectors(model), penalties, references=references)
    trainer.add_callback(RegularizerCallback(trainer, regularizer, gradient_every=gradient_every))
    trainer.train()
    return [log for log in trainer.state.log_history if "loss" in log]


class TestReporters:
    """Every reporter has every figure, and the same ones."""

    @pytest.fixture
    def logs(self, tiny_llama, tiny_tokenizer, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
        logs = train(
            tiny_llama(), tiny_tokenizer, tmp_path, default_penalties(), report_to=["wandb", "tensorboard"],
            logging_steps=1, max_steps=3,
        )  # fmt: skip
        wandb.finish()
        return logs

    def expected(self):
        for emotion in EMOTIONS:
            for figure in (*FIGURES, "neutral", "contrast", "gap"):
                yield f"emotion/{emotion}/{figure}"
                yield from (f"emotion/{emotion}/layer_{layer}/{figure}" for layer in range(4))
        yield from ("emoreg/term", "emoreg/task", "emoreg/share")
        yield from (f"emoreg/{p}/desperate/weight" for p in ("hinge", "anchor"))
        yield "emoreg/hinge/desperate/penalty"

    def test_history_wandb_and_tensorboard(self, logs, tmp_path):
        run = wandb_file.read(Path("wandb"))
        (folder,) = {str(p.parent) for p in (tmp_path / "tensorboard").rglob("events.out*")}
        events = EventAccumulator(folder, size_guidance={"scalars": 0})
        events.Reload()
        for name in self.expected():
            values = [log[name] for log in logs]
            assert len(values) == 3, name
            on_disk = [row[f"train/{name}"] for row in run.history if f"train/{name}" in row]
            assert on_disk == pytest.approx(values, rel=1e-6), name
            on_board = [event.value for event in events.Scalars(f"train/{name}")]
            assert on_board == pytest.approx(values, rel=1e-5), name

    def test_the_console_line_is_brief(self, capsys, logs):
        shown = [line for line in capsys.readouterr().out.splitlines() if "'loss'" in line]
        assert len(shown) == 3
        assert all("emotion/desperate/contrast" in line and "emoreg/share" in line for line in shown)
        assert all("layer_" not in line and "emotion/calm" not in line for line in shown)


class TestFigures:
    """The logged figures are what they say."""

    def test_statistics_are_those_of_z_by_hand(self, tiny_llama, tiny_tokenizer, tmp_path):
        model, rows = tiny_llama(), uneven_rows(4)
        vectors, batch = random_vectors(model), padded(uneven_rows(4))
        (log,) = train(model, tiny_tokenizer, tmp_path, [Hinge("calm", weight=0.0, threshold=0.3)], vectors,
                       rows=rows, max_steps=1, learning_rate=0.0)  # fmt: skip
        with torch.no_grad():
            states = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
        k = vectors.index("calm")
        hidden = states.hidden_states[2][batch["labels"] != -100]
        z = (hidden @ vectors.directions[1, k] - vectors.mean[1, k]) / vectors.std[1, k]
        expected = {"mean": z.mean(), "sd": z.std(correction=0), "max": z.max(), "above": (z > 0.3).float().mean()}
        for figure, value in expected.items():
            assert log[f"emotion/calm/layer_1/{figure}"] == pytest.approx(value.item(), rel=1e-4), figure
        of_layers = [log[f"emotion/calm/layer_{layer}/mean"] for layer in range(4)]
        assert log["emotion/calm/mean"] == pytest.approx(sum(of_layers) / 4)

    def test_neutral_and_contrast_are_of_the_reference_text(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        vectors = random_vectors(model)
        (log,) = train(model, tiny_tokenizer, tmp_path, [], vectors, references="file", max_steps=1, learning_rate=0.0)
        values = []
        for ids, mask in zip(vectors.reference_ids, vectors.reference_mask, strict=True):
            with torch.no_grad():
                hidden = model(ids[None, : mask.sum()], output_hidden_states=True).hidden_states[1][0]
            values.append((hidden @ vectors.directions[0, 0] - vectors.mean[0, 0]) / vectors.std[0, 0])
        neutral = torch.cat(values).mean().item()
        base = vectors.reference_z[vectors.reference_mask].mean(0)[0, 0].item()
        assert log["emotion/desperate/layer_0/neutral"] == pytest.approx(neutral - base, rel=1e-4)
        contrast = log["emotion/desperate/layer_0/mean"] - neutral
        assert log["emotion/desperate/layer_0/contrast"] == pytest.approx(contrast, rel=1e-4)

    def test_term_and_task_add_up_to_the_loss(self, tiny_llama, tiny_tokenizer, tmp_path):
        logs = train(tiny_llama(), tiny_tokenizer, tmp_path, default_penalties(hinge=0.5))
        for log in logs:
            whole = log["emoreg/task"] + log["emoreg/term"]
            assert log["loss"] == pytest.approx(whole, rel=1e-3)
            assert log["emoreg/share"] == pytest.approx(log["emoreg/term"] / log["loss"], rel=1e-3)

    def test_gradient_norms_at_the_last_block_are_the_terms_and_the_tasks(self, tiny_llama, tiny_tokenizer, tmp_path):
        model, rows = tiny_llama(), uneven_rows(2)
        vectors, batch = random_vectors(model, layers=[3]), padded(uneven_rows(2))
        hinge = Hinge("desperate", weight=0.7, threshold=-1.0)
        (log,) = train(model, tiny_tokenizer, tmp_path, [hinge], vectors, rows=rows, max_steps=1, learning_rate=0.0,
                       gradient_accumulation_steps=1)  # fmt: skip
        kept = []
        handle = model.model.layers[3].register_forward_hook(lambda m, a, output: kept.append(output))
        task = model(**batch).loss
        handle.remove()
        z = (kept[0] @ vectors.directions[0, 0] - vectors.mean[0, 0]) / vectors.std[0, 0]
        term = 0.7 * (z + 1).clamp(min=0).square()[batch["labels"] != -100].mean()
        for name, loss in {"term": term, "task": task}.items():
            (gradient,) = torch.autograd.grad(loss, kept[0], retain_graph=True)
            assert log[f"emoreg/gradient/{name}/layer_3"] == pytest.approx(gradient.norm().item(), rel=1e-3), name

    def test_gradient_norms_are_measured_at_every_nth_step_only(self, tiny_llama, tiny_tokenizer, tmp_path):
        logs = train(tiny_llama(), tiny_tokenizer, tmp_path, default_penalties(), gradient_every=2, max_steps=4)
        assert ["emoreg/gradient/term/layer_0" in log for log in logs] == [True, False, True, False]
