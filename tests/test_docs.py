"""README and docs/: every block of Python is run, every command is parsed, every file that is linked exists.

Blocks take the names of a reader's script as given (`given`), and import what they use of emoreg.
"""

import os
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch
import typer.main
from datasets import Dataset
from trl import GRPOConfig

from emoreg import EmotionVectors
from emoreg.cli import app
from tests import tiny
from tests.documents import Block, blocks
from tests.support import padded, random_vectors, sft_trainer, uneven_rows

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = [block for page in PAGES for block in blocks(page, "python") if "trainer.train()" not in block.text]
COMMANDS = [
    Block(block.page, block.line + number, line)
    for page in PAGES
    for block in blocks(page, "sh")
    for number, line in enumerate(block.text.splitlines())
]


@pytest.fixture
def given(tmp_path, monkeypatch):
    """What blocks take as given: a trainer, a model, its vectors, all tiny."""
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    model.save_pretrained("Qwen/Qwen3-0.6B")
    tokenizer.save_pretrained("Qwen/Qwen3-0.6B")
    Path("vectors").mkdir()
    vectors = random_vectors(model, ("desperate", "calm", "afraid"))
    verdict = {"desperate": {"layers": [1, 2], "why": "for this test"}}
    vectors = EmotionVectors(**{**vars(vectors), "validation": {"verdict": verdict}})
    vectors.save("vectors/qwen3-0.6b")
    monkeypatch.setattr(GRPOConfig, "__init__", _on_cpu(GRPOConfig.__init__))
    batch = padded(uneven_rows(4))
    return {
        "trainer": sft_trainer(model, tokenizer, tmp_path / "run"),
        "model": model,
        "tokenizer": tokenizer,
        "optimizer": torch.optim.SGD(model.parameters(), lr=1e-3),
        "batches": [batch] * 10,
        "prompts": Dataset.from_list([{"prompt": "What is it?"}] * 8),
        "task_reward": lambda completions, **kwargs: [0.0] * len(completions),
    }


def _on_cpu(init):
    def with_defaults(self, *args, **kwargs):
        init(self, *args, **({"use_cpu": True, "bf16": False, "report_to": "none"} | kwargs))

    return with_defaults


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_runs(block, given):
    callbacks = len(given["trainer"].callback_handler.callbacks)
    exec(compile(block.text, str(block), "exec"), given)
    trainer = given["trainer"]
    if "regularize(" in block.text or "add_callback(" in block.text:
        assert len(trainer.callback_handler.callbacks) == callbacks + 1


def command_of(line: str) -> list[str]:
    """The words of a line of shell, without what is set before it."""
    words = shlex.split(line, comments=True)
    return words[next((at for at, word in enumerate(words) if "=" not in word.split("/")[0]), len(words)) :]


OF_EMOREG = [
    block for block in COMMANDS if "emoreg" in (words := command_of(block.text))[:4] and words[:2] != ["pip", "install"]
]
RECIPES = [block for block in COMMANDS if "recipes/" in block.text or "emoreg train" in block.text]


@pytest.mark.parametrize("block", [one for one in OF_EMOREG if "emoreg train" not in one.text], ids=str)
def test_commands_of_emoreg_parse(block):
    words = command_of(block.text)
    name, *arguments = words[words.index("emoreg") + 1 :]
    typer.main.get_command(app).commands[name].make_context(name, arguments)


@pytest.mark.parametrize("block", RECIPES, ids=str)
def test_options_of_recipes_are_theirs(block, tmp_path):
    """A recipe refuses what it does not know while it parses; only after that is the file of vectors missing."""
    os.symlink(ROOT / "configs", "configs")
    words = command_of(block.text)
    at = next(n for n, word in enumerate(words) if word.startswith("recipes/") or word == "train")
    recipe = "sft" if words[at] == "train" else Path(words[at]).stem
    with pytest.raises(ValueError, match="no vectors at"):
        import_module(f"recipes.{recipe}").main([*words[at + 1 :], "--use_cpu"])


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_files_of_the_repository_exist(block):
    for word in command_of(block.text):
        if re.match(r"(\./)?(scripts|recipes|configs|tests)/", word):
            assert (ROOT / word.split("::")[0]).exists(), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_named_exist(page):
    """Links within docs/ the site's build checks too, with their anchors."""
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).is_file(), target
    for named in re.findall(r"`((?:tests|scripts|configs|recipes|docs|emoreg)/[\w./-]+)`", text):
        if "." in named or named.endswith("/"):  # emoreg/term is a metric
            assert (ROOT / named).exists(), named


def test_errors_that_tuning_explains_are_emoregs():
    code = "".join(path.read_text() for path in (ROOT / "emoreg").rglob("*.py"))
    rows = re.findall(r"^\| `([^`]+ [^`]+)` \|", (ROOT / "docs" / "tuning.md").read_text(), re.MULTILINE)
    assert len(rows) >= 4
    for row in rows:
        for part in row.split(" ... "):
            assert part in code, part
