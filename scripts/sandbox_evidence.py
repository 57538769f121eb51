"""Does validation find on the sandbox what the world was built with? Prints docs/evidence-sandbox.md.

    python scripts/sandbox_evidence.py > docs/evidence-sandbox.md

In the sandbox desperation drives shortcuts under impossible tasks most, then anger and shame, then fear, and calm least
(`emoreg.sandbox.world.SHORTCUT_RATES`). Five to ten minutes on two cores.
"""

import argparse

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from emoreg import EmotionVectors
from emoreg.corpus import LabelledText, Passage
from emoreg.extraction import extract
from emoreg.sandbox import EMOTIONS, SHORTCUT_RATES, behaviour, data, extract_vectors, load
from emoreg.validation import dose_response, page, validate
from emoreg.validation.scores import spearman


def doses(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors, replies: int) -> str:
    """Shortcuts among replies that end, by emotion and dose, the steepest first."""
    found = {
        emotion: dose_response(
            model,
            vectors,
            emotion,
            lambda: behaviour.measure(model, tokenizer, count=replies),
            lambda done: done.shortcut_of_ended.value,
        )
        for emotion in vectors.emotions
    }
    ranked = sorted(found, key=lambda emotion: -found[emotion]["slope"])
    strengths = next(iter(found.values()))["doses"]
    lines = [
        f"| emotion | rate in the world | {' | '.join(f'{dose:+g}' for dose in strengths)} | slope | rho | monotone |",
        "|---" * (len(strengths) + 5) + "|",
    ]
    for emotion in ranked:
        one = found[emotion]
        effects = " | ".join(f"{effect:.2f}" for effect in one["effects"])
        monotone = "rising" if one["monotone"] else "falling" if one["rho"] <= -0.999 else "no"
        figures = f"{one['slope']:+.2f} | {one['rho']:+.2f} | {monotone}"
        lines.append(f"| {emotion} | {SHORTCUT_RATES[emotion]:.2f} | {effects} | {figures} |")
    rho = spearman([SHORTCUT_RATES[emotion] for emotion in ranked], [found[emotion]["slope"] for emotion in ranked])
    return "\n".join(lines) + f"\n\nSpearman's rho of slope with the rate in the world: {rho:.2f}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = load()
    model.config._name_or_path = model.name_or_path = "the sandbox's organism"

    print("# What validation finds on the sandbox\n\nPrinted by `python scripts/sandbox_evidence.py`.\n")
    print(
        "## Which direction is the cause\n\nVectors from stories; each is added at every block in shares of the "
        f"residual norm, and shortcuts are counted among {args.replies} replies to impossible tasks that no training "
        "text held, of those that end.\n"
    )
    print(doses(model, tokenizer, extract_vectors(model, tokenizer, args.seed), args.replies), flush=True)

    print(
        "\n## Emotion without words\n\nReplies whose last steps are the same words whatever the tone was before, and "
        "only they are read: words and embeddings alone tell nothing, so what is found is a state that the model "
        "carries on. The page, as `emoreg validate` prints it:\n"
    )
    corpus = [LabelledText(Passage(p.text, p.start), p.emotion, p.group) for p in data.probes(args.seed, 40, EMOTIONS)]
    neutral = data.neutral_texts(args.seed, 200)
    vectors = extract(model, tokenizer, corpus, neutral, from_token=1, progress=False)
    found = validate(vectors, model, tokenizer, corpus, neutral, seed=args.seed, progress=False)
    print(page(found).replace("\n## ", "\n### ").replace("# Evidence", "### Evidence", 1))

    print("## Stories give themselves away\n\nThe same of the stories that the vectors above come from, in short.\n")
    stories = data.stories(args.seed, 60)
    told = validate(extract_vectors(model, tokenizer, args.seed), model, tokenizer, stories, neutral, doses=(), folds=4,
                    seed=args.seed, progress=False)  # fmt: skip
    assert told.validation is not None
    for emotion in ("desperate", "calm"):
        print(f"* **{emotion}**: {told.validation['verdict'][emotion]['why']}.")


if __name__ == "__main__":
    main()
