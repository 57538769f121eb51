"""``emoreg import``, ``export`` and ``push``: vectors from other libraries, and for others."""

from pathlib import Path
from typing import Annotated

import typer

from emoreg.cli.shell import check_writable, is_first, load, load_tokenizer, one_line_errors, processes
from emoreg.cli.texts import texts_for


@one_line_errors
def import_(
    file: Annotated[Path, typer.Argument(help="Another library's file: .gguf, .pt (persona-vectors) or .svec.")],
    model: Annotated[str, typer.Argument(help="The model that its directions are of: a hub id or a folder.")],
    output: Annotated[Path, typer.Option(help="Where to write the vectors (.safetensors).")],
    neutral: Annotated[
        Path | None, typer.Option(help="Text without emotion, to calibrate on: .jsonl, .json, .txt.")
    ] = None,
    emotion: Annotated[str | None, typer.Option(help="The emotion's name; by default as the file is called.")] = None,
    offset: Annotated[int, typer.Option(help="Add this to every block number (docs/formats.md).")] = 0,
    text_field: Annotated[str, typer.Option(help="The field that holds the text.")] = "text",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; a GPU by default if there is one.")] = None,
) -> None:
    """Make vectors of another library's directions: repeng, llama.cpp, persona-vectors, activation-steering.

    Example: `emoreg import honest.gguf Qwen/Qwen3-0.6B --neutral dialogues.jsonl --output vectors/honest`
    """
    from emoreg.extraction import calibrate
    from emoreg.vectors.formats import read_directions

    directions = read_directions(file, emotion, offset=offset)
    tokenizer = load_tokenizer(model)
    _, texts = texts_for(None, neutral, tokenizer, text_field)
    check_writable(output)
    with processes(device) as device_of_rank:
        loaded = load(model, dtype, device_of_rank, None)
        vectors = calibrate(loaded, tokenizer, directions, texts)
        if is_first():
            print(f"{vectors.save(output)}: {directions.emotions[0]} at {len(directions.layers)} blocks")


@one_line_errors
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
    from emoreg.vectors.formats import write_gguf

    print(write_gguf(EmotionVectors.load(vectors), emotion, output, scale=scale))


@one_line_errors
def push(
    vectors: Annotated[Path, typer.Argument(help="Vectors (.safetensors).")],
    name: Annotated[
        str, typer.Argument(help="A repository on the Hugging Face Hub, as user/name; or an artifact, as project/name.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log an artifact to Weights & Biases instead.")] = False,
) -> None:
    """Upload vectors, with a model card, to the Hugging Face Hub. Log in with `hf auth login` first.

    Example: `emoreg push vectors/qwen3-0.6b me/qwen3-0.6b-emotions`, or
    `emoreg push vectors/qwen3-0.6b emotions/qwen3-0.6b --wandb`
    """
    from emoreg import EmotionVectors
    from emoreg.vectors import push_artifact, push_to_hub

    found = EmotionVectors.load(vectors)
    print(push_artifact(found, name) if wandb else push_to_hub(found, name, private=private or None))
