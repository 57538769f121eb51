"""``emoreg extract``."""

from pathlib import Path
from typing import Annotated

import typer

from emoreg import checks
from emoreg.cli.shell import check_writable, is_first, load, load_tokenizer, one_line_errors, processes
from emoreg.cli.texts import texts_for


@one_line_errors
def extract(
    model: Annotated[str, typer.Argument(help="The model that you will fine-tune: a hub id or a folder.")],
    output: Annotated[Path, typer.Option(help="Where to write the vectors (.safetensors).")],
    corpus: Annotated[
        Path | None,
        typer.Argument(help="Labelled texts or conversations (messages): .jsonl or .json. By default emoreg's own."),
    ] = None,
    neutral: Annotated[
        Path | None,
        typer.Option(help="Text without emotion, best of the kind that you train on: .jsonl, .json, .txt."),
    ] = None,
    text_field: Annotated[str, typer.Option(help="The field that holds the text.")] = "text",
    emotion_field: Annotated[str, typer.Option(help="The field that holds the emotion.")] = "emotion",
    estimator: Annotated[
        str, typer.Option(help="difference_of_means, one_against_rest, lda, leace, logistic or class_pca.")
    ] = "difference_of_means",
    rank: Annotated[int, typer.Option(help="Directions per emotion, for class_pca.")] = 1,
    layers: Annotated[str | None, typer.Option(help="Blocks to read, as 4,5,8-12. All by default.")] = None,
    from_token: Annotated[int, typer.Option(help="Read each labelled text from this token on.")] = 50,
    denoise: Annotated[float, typer.Option(help="Share of neutral variance to take out of the directions.")] = 0.5,
    tokens_per_batch: Annotated[int, typer.Option(help="Tokens per forward pass, padding included.")] = 2048,
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

    Example: `emoreg extract Qwen/Qwen3-0.6B --output vectors/qwen3-0.6b`, or
    `emoreg extract Qwen/Qwen3-0.6B stories.jsonl --neutral dialogues.jsonl --output vectors/qwen3-0.6b`
    """
    from emoreg import ranks
    from emoreg.extraction import extract as run

    with processes(device) as device_of_rank:
        with ranks.together():
            if device and device_map:
                raise ValueError("--device-map says where the model lies; leave --device out")
            tokenizer = load_tokenizer(model)
            texts, neutral_texts = texts_for(corpus, neutral, tokenizer, text_field, emotion_field)
            chosen = None if layers is None else checks.layers_in("--layers", layers)
            if is_first():
                check_writable(output)
            loaded = load(model, dtype, device_of_rank, device_map)
        vectors = run(
            loaded, tokenizer, texts, neutral_texts, estimator=estimator, rank=rank, layers=chosen,
            from_token=from_token, denoise_share=denoise, tokens_per_batch=tokens_per_batch, resume_dir=resume_dir,
        )  # fmt: skip
        with ranks.together():
            if is_first():
                path = vectors.save(output)
                size = f"{len(vectors.emotions)} emotions at {len(vectors.layers)} layers of width {vectors.width}"
                print(f"{path}: {size}; are they real? emoreg validate {path}")
