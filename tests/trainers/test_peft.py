"""The term under every kind of adapter and number format: its parameter gradients, against plain autograd.

Each run is one step of a real trainer whose task loss is taken times 0, which leaves the term's gradient alone.
"""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import DPOConfig, DPOTrainer, SFTTrainer
from trl.models.activation_offloading import get_act_offloading_ctx_manager

from emoreg import Band, Hinge, Regularizer, RegularizerCallback
from emoreg.model.blocks import backbone
from tests.support import QUIET, KeepGradients, gradients, padded, random_vectors, sft_trainer, uneven_rows

HINGE = Hinge("desperate", weight=0.5, threshold=-0.5)
BAND = Band("calm", weight=0.7, low=-0.2, high=0.3)
ONE_STEP = {
    "max_steps": 1, "max_grad_norm": 0.0, "learning_rate": 0.0,
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
}  # fmt: skip

PAIRS = [("ab", "cdef", "ghi"), ("c", "xy", "abcde"), ("hello", "i", "jk"), ("d", "mnop", "q")]


def hidden_states(model: nn.Module, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Every block's output at the tokens given; the final norm is lifted off, so that the last is one too."""
    decoder = backbone(model)
    norm, decoder.norm = decoder.norm, nn.Identity()
    try:
        states = model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
    finally:
        decoder.norm = norm
    return [hidden[:, -ids.shape[1] :].float() for hidden in states[1:]]  # virtual tokens come first


def z_of(hidden: Tensor, vectors, row: int, emotion: str) -> Tensor:
    k = vectors.emotions.index(emotion)
    return (hidden @ vectors.directions[row, k] - vectors.mean[row, k]) / vectors.std[row, k]


def written_out(model: nn.Module, batch: dict[str, Tensor], share: Tensor, vectors) -> Tensor:
    """Hinge and band, plainly; ``share`` (B, T) is each position's part in the mean."""
    total = torch.zeros(())
    for row, hidden in enumerate(hidden_states(model, batch["input_ids"], batch["attention_mask"])):
        z = z_of(hidden, vectors, row, "desperate")
        value = HINGE.weight * (z - HINGE.threshold).clamp(min=0) ** 2
        z = z_of(hidden, vectors, row, "calm")
        value = value + BAND.weight * ((z - BAND.high).clamp(min=0) ** 2 + (BAND.low - z).clamp(min=0) ** 2)
        total = total + (value * share).sum() / len(vectors.layers)
    return total


def per_token(batch: dict[str, Tensor]) -> Tensor:
    inside = batch["labels"] != -100
    return inside / inside.sum()


class NoTask(SFTTrainer):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) * 0


class NoTaskDPO(DPOTrainer):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) * 0


def found(trainer, vectors) -> dict[str, Tensor]:
    """The gradients of one step under the term."""
    keep = KeepGradients()
    trainer.add_callback(keep)
    trainer.add_callback(RegularizerCallback(trainer, Regularizer(vectors, [HINGE, BAND], references="file")))
    trainer.train()
    return keep.gradients


def expected(model, vectors, batch, share) -> dict[str, Tensor]:
    """The same, written out."""
    model.zero_grad()
    written_out(model, batch, share, vectors).backward()
    return gradients(model)


def assert_alike(got: dict[str, Tensor], wanted: dict[str, Tensor], margin: float = 1e-6) -> None:
    """Over all parameters, as docs/trainers.md measures it; no single one may be off by ten times as much."""
    assert wanted
    assert got.keys() == wanted.keys()
    errors = {name: (got[name] - gradient).norm() for name, gradient in wanted.items()}
    for name, error in errors.items():
        # How far a small gradient, a sum of larger parts, is off by rounding alone differs between processors.
        assert error <= 10 * margin * wanted[name].norm(), name
    whole = torch.stack([gradient.norm() for gradient in wanted.values()]).norm()
    assert torch.stack(list(errors.values())).norm() <= margin * whole


def lora(**options) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **options)


VARIANTS = {
    "LoRA": lora(),
    "rsLoRA": lora(use_rslora=True, lora_alpha=4),
    "DoRA": lora(use_dora=True),
    "modules_to_save": lora(modules_to_save=["embed_tokens"]),
    "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16),
    "prefix tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


class TestAdapters:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_the_gradient_is_the_gradient(self, tiny_llama, tiny_tokenizer, tmp_path, variant):
        model, rows = tiny_llama(), uneven_rows(4)
        vectors, batch = random_vectors(model), padded(rows)
        config = copy.deepcopy(VARIANTS[variant])
        torch.manual_seed(0)
        trainer = sft_trainer(
            model, tiny_tokenizer, tmp_path, rows, trainer_class=NoTask, peft_config=config, **ONE_STEP
        )
        got = found(trainer, vectors)
        assert_alike(got, expected(trainer.model, vectors, batch, per_token(batch)))
        if variant == "modules_to_save":
            assert any("embed_tokens.modules_to_save" in name for name in got)

    def test_of_several_adapters_the_active_one_counts_and_trains(self, tiny_llama, tiny_tokenizer, tmp_path):
        model, rows = tiny_llama(), uneven_rows(4)
        vectors, batch = random_vectors(model), padded(rows)
        torch.manual_seed(0)
        model = get_peft_model(model, lora())
        model.add_adapter("second", lora())
        model.set_adapter("second")
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path, rows, trainer_class=NoTask, **ONE_STEP)
        got = found(trainer, vectors)
        assert all(".second." in name for name in got)
        assert_alike(got, expected(trainer.model, vectors, batch, per_token(batch)))

    def test_an_adapter_as_dpos_reference(self, tiny_llama, tiny_tokenizer, tmp_path):
        """Retraining an adapter, `DPOTrainer` keeps a copy of it, "ref", and runs it under the same model."""
        model = tiny_llama()
        vectors = random_vectors(model)
        torch.manual_seed(0)
        model = get_peft_model(model, lora())
        rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]
        trainer = NoTaskDPO(model, args=DPOConfig(str(tmp_path), **ONE_STEP, **QUIET),
                            train_dataset=Dataset.from_list(rows), processing_class=tiny_tokenizer)  # fmt: skip
        assert [*model.peft_config] == ["default", "ref"]
        (batch,) = trainer.get_train_dataloader()
        n = len(batch["input_ids"]) // 2
        inside = batch["completion_mask"].bool()
        share = inside / inside.sum(1, keepdim=True) / n
        share[n:] = 0  # the rejected ones, which no scope counts by itself
        got = found(trainer, vectors)
        assert all(".default." in name for name in got)
        assert_alike(got, expected(trainer.model, vectors, batch, share))

    @pytest.mark.parametrize("variant", ["prompt tuning", "p-tuning", "prefix tuning"])
    def test_figures_are_of_real_tokens_under_the_learned_prompt(self, tiny_llama, tiny_tokenizer, tmp_path, variant):
        model, rows = tiny_llama(), uneven_rows(4)
        vectors, batch = random_vectors(model), padded(rows)
        torch.manual_seed(0)
        config = copy.deepcopy(VARIANTS[variant])
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path, rows, peft_config=config, **ONE_STEP)
        found(trainer, vectors)
        log = trainer.state.log_history[0]
        mask = vectors.reference_mask
        texts = {
            "mean": (batch["input_ids"], batch["attention_mask"], batch["labels"] != -100),
            "neutral": (vectors.reference_ids, mask.flip(1).cummax(1).values.flip(1).long(), mask),
        }
        trainer.model.eval()
        for figure, (ids, attention, inside) in texts.items():
            with torch.no_grad():
                states = hidden_states(trainer.model, ids, attention)
            for row, hidden in enumerate(states):
                expected = z_of(hidden, vectors, row, "sad")[inside].mean().item()
                if figure == "neutral":
                    expected -= vectors.reference_z[mask][:, row, vectors.index("sad")].mean().item()
                assert log[f"emotion/sad/layer_{row}/{figure}"] == pytest.approx(expected, rel=1e-4), figure


class TestNumberFormats:
    @staticmethod
    def trainer(model, tokenizer, folder, rows, trainer_class=NoTask, **options):
        return sft_trainer(model, tokenizer, folder, rows, trainer_class=trainer_class, **(ONE_STEP | options))

    def test_bf16_autocast(self, tiny_llama, tiny_tokenizer, tmp_path):
        """The same as written out under the autocast that accelerate has put round the model's forward; and, since
        bf16 keeps 8 bits, within 3 % of the model in fp32."""
        model, rows = tiny_llama(), uneven_rows(4)
        vectors, batch = random_vectors(model), padded(rows)
        trainer = self.trainer(model, tiny_tokenizer, tmp_path, rows, bf16=True)
        got, share = found(trainer, vectors), per_token(batch)
        assert_alike(got, expected(trainer.model, vectors, batch, share))
        in_fp32 = expected(tiny_llama(), vectors, batch, share)
        assert_alike(got, in_fp32, margin=0.03)
        assert any(not torch.equal(got[name], in_fp32[name]) for name in got)  # there was an autocast at all

    def test_a_grad_scaler_scales_the_term_as_it_does_the_task_loss(self, tiny_llama, tiny_tokenizer, tmp_path):
        """Simulated: accelerate makes a scaler on a GPU only, so the CPU's is put in its place, without fp16 itself.

        A power of two scales exactly: the unscaled gradients are bitwise those of the run without a scaler.
        """
        runs = {}
        for scale in (None, 2.0**14):
            model, rows = tiny_llama(), uneven_rows(4)
            trainer = self.trainer(model, tiny_tokenizer, tmp_path, rows, trainer_class=SFTTrainer)
            if scale is not None:
                trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            got = found(trainer, random_vectors(model))
            runs[scale] = (
                {name: gradient / (scale or 1.0) for name, gradient in got.items()},
                trainer.state.log_history[0],
            )
        (plain, plain_log), (scaled, scaled_log) = runs.values()
        assert plain.keys() == scaled.keys()
        assert all(torch.equal(plain[name], scaled[name]) for name in plain)
        names = [name for name in plain_log if name.startswith(("emoreg/", "emotion/"))]
        assert {name: scaled_log[name] for name in names} == {name: plain_log[name] for name in names}

    def test_activation_offloading(self, tiny_llama, tiny_tokenizer, tmp_path, monkeypatch):
        """Simulated: on a CPU TRL fails at `torch.accelerator.current_accelerator().type`, which is None's.

        With the CPU as that accelerator, and without pinned memory and streams, which it has not, the same context
        packs every tensor that backward needs, and unpacks it.
        """
        model, rows = tiny_llama(), uneven_rows(4)
        vectors, batch = random_vectors(model), padded(rows)
        trainer = self.trainer(model, tiny_tokenizer, tmp_path, rows)
        monkeypatch.setattr(torch.cpu, "empty_cache", lambda: None, raising=False)  # asked for beside bitsandbytes
        with monkeypatch.context() as patch:
            patch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cpu"))
            offload = get_act_offloading_ctx_manager(model, use_pin_memory=False, use_streams=False, min_offload_size=1)
        packed = []
        offload.pack_hook = lambda tensor, pack=offload.pack_hook: packed.append(tensor.shape) or pack(tensor)
        trainer.maybe_activation_offload_context = offload  # as SFTTrainer does with activation_offloading=True
        got = found(trainer, vectors)
        assert len(packed) > 50
        assert_alike(got, expected(trainer.model, vectors, batch, per_token(batch)))

    def test_a_quantised_base(self, tiny_llama, tiny_tokenizer, tmp_path):
        """QLoRA: adapters in fp32 over a base of 4 bits, with vectors of the base before it was quantised."""
        pytest.importorskip("bitsandbytes")
        base = tiny_llama(hidden_size=64, num_key_value_heads=4)
        base.save_pretrained(tmp_path / "base")
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=nf4, device_map="cpu")
        rows, vectors = uneven_rows(4), random_vectors(base)
        batch = padded(rows)
        torch.manual_seed(0)
        trainer = self.trainer(model, tiny_tokenizer, tmp_path, rows, peft_config=lora())
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:  # TRL has put a quantised model's adapters into bf16
                parameter.data = parameter.data.float()
        got = found(trainer, vectors)
        assert_alike(got, expected(trainer.model, vectors, batch, per_token(batch)))
