"""``emoreg validate``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from emoreg.cli.shell import check_writable, is_first, load, load_tokenizer, one_line_errors, processes
from emoreg.cli.texts import texts_for


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
    from emoreg import EmotionVectors, ranks
    from emoreg.corpus import emotions as rated
    from emoreg.corpus import severity_templates
    from emoreg.validation import StakesPair
    from emoreg.validation import page as page_of
    from emoreg.validation import validate as run

    found = EmotionVectors.load(vectors)
    named = [name.strip() for name in emotions.split(",") if name.strip() in found.emotions]
    name = model or found.provenance.model
    with processes(device) as device_of_rank:
        with ranks.together():
            tokenizer = load_tokenizer(name)
            traits = [] if trait_fields is None else trait_fields.split(",")
            texts, neutral_texts = texts_for(corpus, neutral, tokenizer, text_field, emotion_field, group_field, traits)
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
                    print(f"{page}: the evidence, which is in {vectors} too")
                for emotion in named[:1]:  # the first is the one to be kept down; what it is held against comes after
                    print(_advice(found, vectors, emotion), file=sys.stderr)


def _advice(found, vectors: Path, emotion: str) -> str:
    """What to do with the verdict on the emotion that is to be kept down, in one line."""
    if emotion not in found.validation["verdict"]:
        return f"{emotion}: not judged, for want of texts; give some with --corpus"
    layers, named = found.trusted(emotion), f'"{vectors}"' + ("" if emotion == "desperate" else f', "{emotion}"')
    if not layers:
        return f"{emotion}: trusted at no layer, so only watch: emoreg.regularize(trainer, {named}, penalties=[])"
    if layers == found.layers:
        return f"{emotion}: trusted at all layers; to keep it down: emoreg.regularize(trainer, {named})"
    call = f'emoreg.regularize(trainer, {named}, layers="trusted")'
    return f"{emotion}: trusted at layers {', '.join(map(str, layers))}; to keep it down there: {call}"
