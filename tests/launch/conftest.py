"""What a launched recipe trains on."""

import json
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.support import random_vectors


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config for `recipes/sft.py`: two steps on the CPU, of a model, data and vectors that are made here."""
    model = tiny.llama()
    model.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    random_vectors(model).save(tmp_path / "vectors")
    (tmp_path / "data").mkdir()
    rows = [{"prompt": "What is it?", "completion": f" There are {n} lines."} for n in range(16)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "model_name_or_path": "model",
        "dataset_name": "data",
        "vectors": "vectors",
        "output_dir": "run",
        "max_steps": 2,
        "logging_steps": 1,
        "save_steps": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
    }
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "sft.yaml"
