"""The configs of `accelerate launch`: read whole by it, and each trains, over gloo where it would take NCCL."""

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

from tests import tiny
from tests.launch.machines import ACCELERATE, ROOT, together
from tests.ports import free_port

FOLDER = ROOT / "configs/accelerate"
# What a checkpoint holds only where the engine was this one.
MARKS = {
    "ddp": "optimizer.pt",
    "fsdp2": "pytorch_model_fsdp.bin",
    "zero2": "global_step2/mp_rank_00_model_states.pt",
    "zero3": "global_step2/zero_pp_rank_1_mp_rank_00_model_states.pt",
}
each = pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3", "multinode"])


def test_every_config_is_tested():
    assert {path.stem for path in FOLDER.iterdir()} == {*MARKS, "multinode"}


@each
def test_the_launcher_does_what_the_config_says(name):
    """It refuses unknown keys itself, but not those of a part, and some of those that it knows it does not look at."""
    path = FOLDER / f"{name}.yaml"
    load_config_from_file(str(path))
    parser = launch_command_parser()
    settings = yaml.safe_load(path.read_text())
    arguments = ["--config_file", str(path), *(["--main_process_ip", "a"] if name == "multinode" else []), "recipe.py"]
    taken, _, _ = _validate_launch_command(parser.parse_args(arguments))
    engine = settings.pop("distributed_type")
    assert (taken.multi_gpu, taken.use_fsdp, taken.use_deepspeed) == (
        engine == "MULTI_GPU", engine == "FSDP", engine == "DEEPSPEED",
    )  # fmt: skip
    assert settings.pop("compute_environment") == "LOCAL_MACHINE"
    for part in [key for key, value in settings.items() if isinstance(value, dict)]:
        settings |= settings.pop(part)
    assert settings.keys() <= {action.dest for action in parser._actions}
    assert {key: getattr(taken, key) for key in settings} == settings
    assert taken.num_processes == 8 * taken.num_machines


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKS)
def test_a_recipe_trains_and_saves_a_whole_model(name, config, tmp_path):
    if name.startswith("zero"):
        pytest.importorskip("deepspeed")
    engine = {"ddp": "DDP", "fsdp2": "FSDP2", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}[name]
    script = [ROOT / "tests/launch/on_cpu.py", engine, ROOT / "recipes/sft.py", "--config", config]
    launch = ["--config_file", FOLDER / f"{name}.yaml", "--num_processes", 2, "--main_process_port", free_port()]
    (said,) = together([*ACCELERATE, *launch, *script], folder=tmp_path)
    assert said.count("'emotion/desperate/contrast'") == 2
    assert (tmp_path / "run/checkpoint-2" / MARKS[name]).exists()
    assert load_file(tmp_path / "run/model.safetensors").keys() >= dict(tiny.llama().named_parameters()).keys()
