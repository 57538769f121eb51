"""README's script, run as it stands: by its names, but on a small local model, its vectors and conversations.

Hub names are paths too. Folders of these names in the working directory are what transformers, datasets and emoreg
find first.
"""

import json
import re
import runpy
from pathlib import Path

import pytest
import trl
import wandb
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from tests import tiny
from tests.documents import blocks
from tests.support import random_vectors
from tests.tracking.wandb_file import read

ROOT = Path(__file__).parents[1]
QWEN3 = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
"""Qwen3's own template, without marks of where the assistant speaks."""
SAID = "Nothing helps. I have tried it all."


def lay_out(folder: Path) -> None:
    """What README's commands and names stand for."""
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    tokenizer.chat_template = QWEN3.read_text()
    model.save_pretrained(folder / "Qwen" / "Qwen3-0.6B")
    tokenizer.save_pretrained(folder / "Qwen" / "Qwen3-0.6B")
    (folder / "vectors").mkdir()
    random_vectors(model).save(folder / "vectors" / "qwen3-0.6b")
    rows = [
        [{"role": "user", "content": f"Count to {n}."}, {"role": "assistant", "content": SAID}] * 2 for n in range(160)
    ]
    data = folder / "trl-lib" / "Capybara"
    data.mkdir(parents=True)
    (data / "train.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))


def _on_cpu(init):
    def with_defaults(self, *args, **kwargs):
        init(self, *args, **({"use_cpu": True, "bf16": False, "disable_tqdm": True} | kwargs))

    return with_defaults


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[SFTTrainer, Path]:
    """The one block of README that is a whole script, run: its trainer, and where it ran."""
    (script,) = [block.text for block in blocks(ROOT / "README.md", "python") if "trainer.train()" in block.text]
    folder = tmp_path_factory.mktemp("readme")
    lay_out(folder)
    (folder / "train.py").write_text(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # On this machine's CPU, and not in a GPU's number format: what a machine decides, not the script.
        patch.setattr(SFTConfig, "__init__", _on_cpu(SFTConfig.__init__))
        trainer = runpy.run_path("train.py")["trainer"]
        wandb.finish()
    return trainer, folder


class TestTheScript:
    def test_trains_and_logs_what_readme_says(self, run):
        trainer, folder = run
        assert trainer.state.global_step == 30  # 160 conversations, 3 times
        assert sum("emotion/desperate/contrast" in log for log in trainer.state.log_history) == 3
        charts = read(folder / "wandb")
        named = set(re.findall(r"^\| `(train/\S+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
        assert "train/emotion/desperate/contrast" in named
        for name in named:
            assert len(charts.column(name)) == 3, name

    def test_only_the_assistants_turns_count(self, run):
        """TRL puts a template with marks in the place of Qwen3's own."""
        trainer, _ = run
        row = trainer.train_dataset[0]
        counted = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        text = trainer.processing_class.decode(counted)
        assert text.count(SAID) == 2
        assert "Count to" not in text

    def test_a_trainer_without_emoreg_goes_on_from_its_checkpoint(self, run, monkeypatch):
        trainer, folder = run
        monkeypatch.chdir(folder)
        args = SFTConfig("runs/plain", use_cpu=True, bf16=False, report_to="none", num_train_epochs=4, max_length=None)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = 8, 2
        base = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
        plain = SFTTrainer(base, args=args, train_dataset=trainer.train_dataset, peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear"))  # fmt: skip
        plain.train(resume_from_checkpoint="runs/sft/checkpoint-30")
        assert plain.state.global_step == 40

    def test_what_it_saves_is_an_ordinary_adapter(self, run, monkeypatch):
        _, folder = run
        monkeypatch.chdir(folder)
        files = [path for path in Path("runs/sft").rglob("*") if path.is_file()]
        assert {path.name for path in files if b"emoreg" in path.read_bytes()} == {"trainer_state.json"}
        model = AutoModelForCausalLM.from_pretrained("runs/sft")  # the adapter's config names the base model
        ids = AutoTokenizer.from_pretrained("runs/sft")("Count", return_tensors="pt")["input_ids"]
        assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]
