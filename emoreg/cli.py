"""The command line: ``emoreg stories | extract | import | export | push | train | demo``."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from emoreg import checks, ranks, shell
from emoreg.shell import check_writable, is_first, load, load_tokenizer, meet, one_line_errors

app = typer.Typer(
    help="Keep a model's internal desperation down while it is being fine-tuned, and see what became of it.",
    epilog="Start with: emoreg demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    shell.show_traceback = traceback


@app.command()
@one_line_errors
def stories(
    model: Annotated[str, typer.Argument(help="The model whose vectors you want: a hub id or a folder.")],
    output: Annotated[Path, typer.Option(help="Where to write the texts (.jsonl). What it has is kept.")],
    emotions: Annotated[str | None, typer.Option(help="Some of the 171, as desperate,calm. All by default.")] = None,
    topics: Annotated[int, typer.Option(help="How many topics, of 100.")] = 100,
    per_topic: Annotated[int, typer.Option(help="Texts on each topic, under each emotion.")] = 12,
    neutral: Annotated[
        bool, typer.Option("--neutral", help="Dialogues without emotion, for `extract --neutral`.")
    ] = False,
    backend: Annotated[str, typer.Option(help="transformers, or vllm where it is installed.")] = "transformers",
    attempts: Annotated[int, typer.Option(help="How often a text is asked for, if it is refused.")] = 4,
    min_tokens: Annotated[int, typer.Option(help="Refuse texts of fewer tokens.")] = 50,
    max_tokens: Annotated[int, typer.Option(help="Cut texts off after so many tokens.")] = 320,
    temperature: Annotated[float, typer.Option(help="Of the sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of the sampling.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    batch_size: Annotated[int, typer.Option(help="transformers: texts written at a time.")] = 32,
    gpus: Annotated[int, typer.Option(help="vllm: GPUs over which the model is spread.")] = 1,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; a GPU by default if there is one.")] = None,
    device_map: Annotated[
        str | None, typer.Option(help="auto: the model spread over the GPUs, the host and a disk.")
    ] = None,
) -> None:
    """Have a model write the stories from which its emotion vectors are extracted.

    Each is one paragraph about someone who feels an emotion; the word and its synonyms are banned. Texts with a banned
    word, too short ones and duplicates are refused and asked for again. Stopped at any moment, the command goes on
    where it was.

    Example: `emoreg stories Qwen/Qwen3-0.6B --output stories.jsonl --emotions desperate,calm,happy --topics 20`
    """
    from emoreg.stories import Sampling, Settings, Transformers, Vllm, plan, resume, write

    checks.option("--backend", backend, ("transformers", "vllm"))
    if backend == "vllm" and (device or device_map):
        raise ValueError("--device and --device-map are for --backend transformers; vllm takes --gpus")
    if backend == "transformers" and gpus != 1:
        raise ValueError("--gpus is for --backend vllm; transformers takes --device-map auto")
    settings = Settings(model, seed, min_tokens, Sampling(temperature, top_p, max_tokens))
    names = None if emotions is None else [name.strip() for name in emotions.split(",")]
    items = plan(names, topics, per_topic, neutral=neutral)
    check_writable(output)
    resume(output, settings, neutral=neutral)
    with meet(device) as place:
        if ranks.world() > 1:
            raise ValueError("stories are written by one process; over several GPUs, take --backend vllm")
        if backend == "vllm":
            writer, tokenizer = Vllm(model, settings.sampling, dtype, gpus), load_tokenizer(model)
        else:
            loaded, tokenizer = load(model, dtype, place, device_map), load_tokenizer(model)
            writer = Transformers(loaded, tokenizer, settings.sampling, batch_size)  # pyright: ignore - from_pretrained's
        try:
            outcome = write(output, items, writer, tokenizer, settings, attempts=attempts)
        except KeyboardInterrupt:
            tqdm.write(f"stopped; the same command goes on with {output}", file=sys.stderr)
            raise typer.Exit(130) from None
    refused = ", ".join(f"{count} {reason}" for reason, count in outcome.refused.most_common()) or "none"
    texts = f"{outcome.found + outcome.kept} of {len(items)} texts, {outcome.kept} of them new"
    print(f"{output}: {texts}; refused: {refused}")
    if outcome.missing:
        short = ", ".join(f"{name} ({count})" for name, count in sorted(outcome.missing.items()))
        tqdm.write(f"warning: still missing after --attempts {attempts}: {short}; more of them go on", file=sys.stderr)


@app.command()
@one_line_errors
def extract(
    model: Annotated[str, typer.Argument(help="The model that you will fine-tune: a hub id or a folder.")],
    corpus: Annotated[
        Path, typer.Argument(help="Labelled texts or conversations (messages): .jsonl or .json, one object each.")
    ],
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

    with meet(device) as device_of_rank:
        with ranks.together():
            if device and device_map:
                raise ValueError("--device-map says where the model lies; leave --device out")
            tokenizer = load_tokenizer(model)
            texts = read_corpus(corpus, text_field=text_field, emotion_field=emotion_field, tokenizer=tokenizer)
            neutral_texts = read_texts(neutral, text_field=text_field, tokenizer=tokenizer)
            chosen = None if layers is None else checks.layers_in("--layers", layers)
            if is_first():
                check_writable(output)
            loaded = load(model, dtype, device_of_rank, device_map)
        vectors = run(loaded, tokenizer, texts, neutral_texts, layers=chosen, from_token=from_token,
                      denoise_share=denoise, tokens_per_batch=tokens_per_batch, resume_dir=resume_dir)  # fmt: skip
        with ranks.together():
            if is_first():
                path = vectors.save(output)
                size = f"{len(vectors.emotions)} emotions at {len(vectors.layers)} blocks of width {vectors.width}"
                print(f"{path}: {size}")


@app.command("import")
@one_line_errors
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
    tokenizer = load_tokenizer(model)
    texts = read_texts(neutral, text_field=text_field, tokenizer=tokenizer)
    check_writable(output)
    with meet(device) as device_of_rank:
        loaded = load(model, dtype, device_of_rank, None)
        vectors = calibrate(loaded, tokenizer, directions, texts)
        if is_first():
            print(f"{vectors.save(output)}: {directions.emotions[0]} at {len(directions.layers)} blocks")


@app.command()
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
    from emoreg.formats import write_gguf

    print(write_gguf(EmotionVectors.load(vectors), emotion, output, scale=scale))


@app.command()
@one_line_errors
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
@one_line_errors
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
@one_line_errors
def demo(
    output: Annotated[Path, typer.Option(help="Folder for vectors, runs and the picture.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the texts, the training and the sampling.")] = 0,
) -> None:
    """Show the whole path on the embedded sandbox: no download, a few minutes on two cores.

    Extracts vectors from a tiny model, fine-tunes it on a desperate tone once plain and once regularised, and prints
    what both do with tasks that cannot be done. Logs a W&B run each, offline unless you are logged in.
    """
    from emoreg.sandbox.demo import run

    check_writable(output / "sandbox")
    run(output, seed=seed)


def main() -> None:
    """Entry point."""
    app()
