"""``emoreg stories``."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from emoreg import checks
from emoreg.cli.shell import check_writable, load, load_tokenizer, one_line_errors, processes


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
    from emoreg import ranks
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
    with processes(device) as place:
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
