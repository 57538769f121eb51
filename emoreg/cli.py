"""The command line: ``emoreg extract | import | export | push | train | demo``."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from emoreg import checks, ranks

app = typer.Typer(
    help="Keep a model's internal desperation down while it is being fine-tuned, and see what became of it.",
    epilog="Start with: emoreg demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
_show_traceback = False


@app.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    global _show_traceback
    _show_traceback = traceback


def _one_line_errors(command: Callable) -> Callable:
    """A user's mistake ends in one line and exit code 2, unless the traceback is asked for."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            if _show_traceback:
                raise
            # Not print: a progress bar may stand on the line.
            tqdm.write(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from None

    return run


@app.command()
@_one_line_errors
def extract(
    model: Annotated[str, typer.Argument(help="The model that you will fine-tune: a hub id or a folder.")],
    corpus: Annotated[Path, typer.Argument(help="Labelled texts: .jsonl or .json, one object per text.")],
    neutral: Annotated[
        Path, typer.Option(help="Text without emotion, of the kind that you train on: .jsonl, .json, .txt.")
    ],
    output: Annotated[Path, typer.Option(help="Where to write the vectors (.safetensors).")],
    text_field: Annotated[str, typer.Option(help="The field that holds the text.")] = "text",
    emotion_field: Annotated[str, typer.Option(help="The field that holds the emotion.")] = "emotion",
    layers: Annotated[str | None, typer.Option(help="Blocks to read, as 4,5,8-12. All by default.")] = None,
    from_token: Annotated[int, typer.Option(help="Read each labelled text from this token on.")] = 50,
    denoise: Annotated[float, typer.Option(help="Share of neutral variance to take out of the directions.")] = 0.5,
    tokens_per_batch: Annotated[int, typer.Option(help="Tokens per forward pass, padding included.")] = 4096,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; a GPU by default if there is one.")] = None,
    device_map: Annotated[
        str | None, typer.Option(help="auto: one process, the model spread over its GPUs, the host and a disk.")
    ] = None,
    resume_dir: Annotated[
        Path | None, typer.Option(help="Keep sums here on the way; started again after a crash, go on from them.")
    ] = None,
) -> None:
    """Extract emotion vectors from a model.

    One forward pass over the labelled and the neutral texts gives, for every emotion and block, a direction in the
    residual stream and its calibration: what a reading of 0 and of 1 standard deviation is on neutral text. Several
    processes, each with a GPU of its own, share the texts: `accelerate launch -m emoreg extract ...`, or `torchrun`.

    Example: `emoreg extract Qwen/Qwen3-0.6B stories.jsonl --neutral dialogues.jsonl --output vectors/qwen3-0.6b`
    """
    from emoreg.extraction import extract as run
    from emoreg.extraction import read_corpus, read_texts

    with _ranks(device) as device_of_rank:
        with ranks.together():
            if device and device_map:
                raise ValueError("--device-map says where the model lies; leave --device out")
            texts = read_corpus(corpus, text_field=text_field, emotion_field=emotion_field)
            neutral_texts = read_texts(neutral, text_field=text_field)
            chosen = None if layers is None else checks.layers_in("--layers", layers)
            if _is_first():
                _check_writable(output)
            loaded, tokenizer = _load(model, dtype, device_of_rank, device_map)
        vectors = run(loaded, tokenizer, texts, neutral_texts, layers=chosen, from_token=from_token,
                      denoise_share=denoise, tokens_per_batch=tokens_per_batch, resume_dir=resume_dir)  # fmt: skip
        with ranks.together():
            if _is_first():
                path = vectors.save(output)
                size = f"{len(vectors.emotions)} emotions at {len(vectors.layers)} blocks of width {vectors.width}"
                print(f"{path}: {size}")


@app.command("import")
@_one_line_errors
def import_(
    file: Annotated[Path, typer.Argument(help="Another library's file: .gguf, .pt (persona-vectors) or .svec.")],
    model: Annotated[str, typer.Argument(help="The model that its directions are of: a hub id or a folder.")],
    neutral: Annotated[Path, typer.Option(help="Text without emotion, to calibrate on: .jsonl, .json, .txt.")],
    output: Annotated[Path, typer.Option(help="Where to write the vectors (.safetensors).")],
    emotion: Annotated[str | None, typer.Option(help="The emotion's name; by default as the file is called.")] = None,
    offset: Annotated[int, typer.Option(help="Add this to every block number (docs/formats.md).")] = 0,
    text_field: Annotated[str, typer.Option(help="The field that holds the text.")] = "text",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; a GPU by default if there is one.")] = None,
) -> None:
    """Make vectors of another library's directions: repeng, llama.cpp, persona-vectors, activation-steering.

    Example: `emoreg import honest.gguf Qwen/Qwen3-0.6B --neutral dialogues.jsonl --output vectors/honest`
    """
    from emoreg.extraction import calibrate, read_texts
    from emoreg.formats import read_directions

    directions = read_directions(file, emotion, offset=offset)
    texts = read_texts(neutral, text_field=text_field)
    _check_writable(output)
    with _ranks(device) as device_of_rank:
        loaded, tokenizer = _load(model, dtype, device_of_rank, None)
        vectors = calibrate(loaded, tokenizer, directions, texts)
        if _is_first():
            print(f"{vectors.save(output)}: {directions.emotions[0]} at {len(directions.layers)} blocks")


@app.command()
@_one_line_errors
def export(
    vectors: Annotated[Path, typer.Argument(help="Vectors (.safetensors).")],
    emotion: Annotated[str, typer.Option(help="Which emotion; the exported vector raises it.")],
    output: Annotated[Path, typer.Option(help="Where to write the control vector (.gguf).")],
    scale: Annotated[str, typer.Option(help="Length at scale 1: separation, residual_norm or unit.")] = "separation",
) -> None:
    """Write one emotion's directions as a control vector for llama.cpp.

    Example: `emoreg export vectors/qwen3-0.6b --emotion calm --output calm.gguf`, then
    `llama-cli -m qwen3-0.6b.gguf --control-vector calm.gguf`
    """
    from emoreg import EmotionVectors
    from emoreg.formats import write_gguf

    print(write_gguf(EmotionVectors.load(vectors), emotion, output, scale=scale))


@app.command()
@_one_line_errors
def push(
    vectors: Annotated[Path, typer.Argument(help="Vectors (.safetensors).")],
    repo_id: Annotated[str, typer.Argument(help="A repository on the Hugging Face Hub, as user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload vectors, with a model card, to the Hugging Face Hub. Log in with `hf auth login` first."""
    from emoreg import EmotionVectors
    from emoreg.publishing import push_to_hub

    print(push_to_hub(EmotionVectors.load(vectors), repo_id, private=private or None))


@app.command(context_settings={"ignore_unknown_options": True})
@_one_line_errors
def train(
    options: Annotated[list[str] | None, typer.Argument(help="--config FILE, and any option named above.")] = None,
) -> None:
    """Fine-tune with TRL's SFTTrainer while an emotion is kept down.

    Takes every option of TRL's `SFTConfig`, `ModelConfig` and `ScriptArguments` and of emoreg's `RegularizerConfig`
    (`--vectors`, `--emotion`, `--hinge_weight`, `--anchor_weight`, `--scope`, ...), from a YAML file and from the
    command line, which wins. The code is `recipes/sft.py`: copy it for a trainer of your own, and start that with
    `accelerate launch` on several GPUs. `python -m emoreg_recipes.sft --help` lists every option.

    Example: `emoreg train --config configs/sft.yaml --vectors vectors/qwen3-0.6b --learning_rate 1e-4`
    """
    from emoreg_recipes.sft import main as sft  # pyright: ignore[reportMissingImports] - recipes/, as installed

    sft(options or [])


@app.command()
@_one_line_errors
def demo(
    output: Annotated[Path, typer.Option(help="Folder for vectors, runs and the picture.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the texts, the training and the sampling.")] = 0,
) -> None:
    """Show the whole path on the embedded sandbox: no download, a few minutes on two cores.

    Extracts vectors from a tiny model, fine-tunes it on a desperate tone once plain and once regularised, and prints
    what both do with tasks that cannot be done. Logs a W&B run each, offline unless you are logged in.
    """
    from emoreg.sandbox.demo import run

    _check_writable(output / "sandbox")
    run(output, seed=seed)


def _check_writable(path: Path) -> None:
    """Find out before the work, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {path.parent} ({error.strerror}); choose another --output") from None


@contextmanager
def _ranks(device: str | None) -> Iterator[str]:
    """The processes of `accelerate launch` or `torchrun`, met, and this one's device; parted at the end."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    on_cpu = device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu)
    try:
        if state.num_processes > 1:
            yield str(state.device)
        else:
            yield device or ("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")
    except (ValueError, OSError):
        if state.is_main_process or _show_traceback:
            raise
        raise typer.Exit(2) from None  # ranks fail together, and the first one says it
    finally:
        state.destroy_process_group()


def _is_first() -> bool:
    return ranks.rank() == 0


def _load(name: str, dtype: str, device: str, device_map: str | None):
    from torch import nn
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    if not _is_first():
        disable_progress_bar()
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype must be auto, float32, bfloat16 or float16, got {dtype!r}")
    if device_map is not None and ranks.world() > 1:
        raise ValueError("--device-map is for one process; of several, each has the whole model on a device of its own")
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, device_map=device_map)
    if device_map is None:
        model = nn.Module.to(model, device)
    return model, AutoTokenizer.from_pretrained(name)


def main() -> None:
    """Entry point."""
    app()
