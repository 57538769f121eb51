"""``emoreg extract``, ``validate``, ``import``, ``export`` and ``push``."""

from pathlib import Path
from typing import Annotated

import typer

from emoreg import checks, ranks
from emoreg.cli.shell import check_writable, is_first, load, load_tokenizer, meet, one_line_errors


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
    from emoreg.extraction import extract as run

    with meet(device) as device_of_rank:
        with ranks.together():
            if device and device_map:
                raise ValueError("--device-map says where the model lies; leave --device out")
            tokenizer = load_tokenizer(model)
            texts, neutral_texts = _texts(corpus, neutral, tokenizer, text_field, emotion_field)
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
                size = f"{len(vectors.emotions)} emotions at {len(vectors.layers)} blocks of width {vectors.width}"
                print(f"{path}: {size}")


@one_line_errors
def validate(
    vectors: Annotated[Path, typer.Argument(help="Vectors (.safetensors); the evidence is added to the file.")],
    model: Annotated[str | None, typer.Argument(help="Their model; by default the one that they name.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Labelled texts: .jsonl or .json. By default emoreg's own.")
    ] = None,
    neutral: Annotated[Path | None, typer.Option(help="Text without emotion: .jsonl, .json, .txt.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the page here (.md) instead of printing it.")] = None,
    emotions: Annotated[str, typer.Option(help="Which emotions the page has at every layer.")] = "desperate,calm",
    text_field: Annotated[str, typer.Option(help="The field that holds the text.")] = "text",
    emotion_field: Annotated[str, typer.Option(help="The field that holds the emotion.")] = "emotion",
    group_field: Annotated[
        str | None, typer.Option(help="The field that names a text's scenario; scenarios are held out whole.")
    ] = None,
    trait_fields: Annotated[
        str | None, typer.Option(help="Fields with what else tells texts apart, as topic,person.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Parts that are held out in turn.")] = 5,
    permutations: Annotated[int, typer.Option(help="Of labels, for the null.")] = 200,
    tokens_per_batch: Annotated[int, typer.Option(help="Tokens per forward pass, padding included.")] = 2048,
    seed: Annotated[int, typer.Option(help="Seed of folds, permutations, intervals and sampled text.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; a GPU by default if there is one.")] = None,
    device_map: Annotated[str | None, typer.Option(help="auto: the model spread over GPUs, host and disk.")] = None,
) -> None:
    """Ask of every direction whether it is real, and at which layers; the evidence goes into the file.

    Held-out AUC by layer against a bag of words, embeddings, random directions, shuffled labels and the nearest
    emotions; stability; confounds; rising stakes against rising numbers; what steering does. It names the layers to
    use, or says that none is good enough.

    Example: `emoreg validate vectors/qwen3-0.6b --page qwen3-0.6b.md`
    """
    from emoreg import EmotionVectors
    from emoreg.corpus import emotions as rated
    from emoreg.corpus import severity_templates
    from emoreg.validation import StakesPair
    from emoreg.validation import page as page_of
    from emoreg.validation import validate as run

    found = EmotionVectors.load(vectors)
    named = [name.strip() for name in emotions.split(",") if name.strip() in found.emotions]
    name = model or found.provenance.model
    with meet(device) as device_of_rank:
        with ranks.together():
            tokenizer = load_tokenizer(name)
            traits = [] if trait_fields is None else trait_fields.split(",")
            texts, neutral_texts = _texts(corpus, neutral, tokenizer, text_field, emotion_field, group_field, traits)
            if is_first() and page is not None:
                check_writable(page)
            loaded = load(name, dtype, device_of_rank, device_map)
        found = run(
            found, loaded, tokenizer, texts, neutral_texts,
            severity=[StakesPair(template.texts, template.twins) for template in severity_templates()],
            ratings={one.emotion: (one.valence, one.arousal) for one in rated()},
            folds=folds, permutations=permutations, tokens_per_batch=tokens_per_batch, seed=seed,
        )  # fmt: skip
        with ranks.together():
            if is_first():
                found.save(vectors)
                text = page_of(found, named)
                if page is None:
                    print(text)
                else:
                    page.write_text(text, encoding="utf-8")


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
    _, texts = _texts(None, neutral, tokenizer, text_field)
    check_writable(output)
    with meet(device) as device_of_rank:
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


def _texts(corpus, neutral, tokenizer, text_field, emotion_field="emotion", group_field=None, trait_fields=()):
    """Labelled and neutral texts, from files, or the ones that emoreg ships."""
    from emoreg.corpus import read_corpus, read_texts, shipped_corpus, shipped_neutral

    if corpus is None:
        labelled = shipped_corpus()
    else:
        labelled = read_corpus(corpus, text_field, emotion_field, group_field, trait_fields, tokenizer)
    return labelled, shipped_neutral() if neutral is None else read_texts(neutral, text_field, tokenizer)
