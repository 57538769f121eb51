"""What extracting directions costs, beside a hand-written floor and other libraries.

    python scripts/bench/extraction.py

256 pairs of texts of about 64 tokens, which differ in their first four words, through a random Llama of 8 blocks of
width 512: one direction per block. One process per run, all cases in turn, round after round, so that what else the
machine does meets all alike; seconds are of the second extraction in a process, memory is the process's peak.

    floor              one hook per block, fp64 sums of the last token, no head, texts sorted by length, batches of 32
    emoreg             `fit_directions`: the same and more, the mean over all tokens of a text
    repeng             its default, principal components of differences, batches of 32
    steering-vectors   its default aggregator, the mean, batches of 32
    nnterp             activations of the last token, collected, then means, batches of 32

The other libraries are asked for in an environment of their own, and left out where they are not installed:

    python scripts/bench/extraction.py --peers PYTHON     # an interpreter that has them beside emoreg's requirements

Memory is then measured of emoreg alone with 1 x, 10 x and 100 x as many texts, and with 2, 24 and 171 emotions.
"""

import argparse
import importlib.util
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, logging

BATCH, WORDS = 32, 31996
MODULES = {"repeng": "repeng", "steering-vectors": "steering_vectors", "nnterp": "nnterp"}
CASES = ("floor", "emoreg", *MODULES)
Pairs = list[tuple[str, str]]


def build() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model, and a tokenizer with one token per word that adds BOS."""
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = [*special.values(), *(f"w{n}" for n in range(WORDS))]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **special)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1408,
        vocab_size=len(vocabulary), max_position_embeddings=512, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


def make_pairs(count: int) -> Pairs:
    rng, made = random.Random(0), []
    for _ in range(count):
        body = " ".join(f"w{rng.randrange(WORDS)}" for _ in range(rng.randint(44, 76)))
        made.append((f"w1 w2 w3 w4 {body}", f"w5 w6 w7 w8 {body}"))
    return made


def floor(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Pairs) -> list[torch.Tensor]:
    texts = [(side, text) for pair in pairs for side, text in enumerate(pair)]
    lengths = tokenizer([text for _, text in texts], return_attention_mask=False)["input_ids"]
    order = sorted(range(len(texts)), key=lambda n: -len(lengths[n]))
    sums = torch.zeros(2, len(model.model.layers), model.config.hidden_size, dtype=torch.float64)
    sides = torch.empty(0)

    def hook_of(layer: int):
        def hook(_module: Any, _args: Any, output: Any) -> None:
            rows = (output[0] if isinstance(output, tuple) else output)[:, -1].double()  # padded on the left
            for side in (0, 1):
                sums[side, layer] += rows[sides == side].sum(0)

        return hook

    handles = [block.register_forward_hook(hook_of(n)) for n, block in enumerate(model.model.layers)]
    with torch.inference_mode():
        for at in range(0, len(order), BATCH):
            batch = [texts[n] for n in order[at : at + BATCH]]
            sides = torch.tensor([side for side, _ in batch])
            model.model(**tokenizer([text for _, text in batch], padding=True, return_tensors="pt"), use_cache=False)
    for handle in handles:
        handle.remove()
    return list((sums[0] - sums[1]) / len(pairs))


def emoreg(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Pairs, emotions: int = 2) -> Any:
    from emoreg.corpus import LabelledText
    from emoreg.extraction import fit_directions

    texts = [LabelledText(text, f"emotion {side}") for pair in pairs for side, text in enumerate(pair)]
    if emotions > 2:
        texts = [LabelledText(item.text, f"emotion {n % emotions}") for n, item in enumerate(texts)]
    return fit_directions(model, tokenizer, texts, from_token=1, progress=False).directions


def repeng(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Pairs) -> Any:
    import numpy as np

    np.float_ = np.float64  # pyright: ignore - repeng 0.4 names a type that NumPy 2 has no more
    from repeng import ControlVector, DatasetEntry  # pyright: ignore[reportMissingImports]

    entries = [DatasetEntry(positive=positive, negative=negative) for positive, negative in pairs]
    return ControlVector.train(model, tokenizer, entries, batch_size=BATCH)


def steering_vectors(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Pairs) -> Any:
    from steering_vectors import train_steering_vector  # pyright: ignore[reportMissingImports]

    return train_steering_vector(model, tokenizer, pairs, batch_size=BATCH, show_progress=False)


def nnterp(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Pairs) -> Any:
    from nnterp import StandardizedTransformer  # pyright: ignore[reportMissingImports]
    from nnterp.nnsight_utils import collect_token_activations_batched  # pyright: ignore[reportMissingImports]

    wrapped = StandardizedTransformer(model, tokenizer=tokenizer, check_renaming=False, allow_dispatch=True)
    of_side = [
        collect_token_activations_batched(wrapped, [pair[side] for pair in pairs], BATCH).float().mean(1)
        for side in (0, 1)
    ]
    return of_side[0] - of_side[1]


def run(case: str, count: int, emotions: int) -> None:
    """One case, in this process: a small extraction to warm up, then the one that counts."""
    torch.set_num_threads(2)
    logging.set_verbosity_error()
    model, tokenizer = build()
    pairs = make_pairs(count)
    of_case: dict[str, Callable[..., Any]] = {
        "floor": floor, "repeng": repeng, "steering-vectors": steering_vectors, "nnterp": nnterp,
        "emoreg": lambda *args: emoreg(*args, emotions=min(emotions, 2 * len(args[-1]))),
    }  # fmt: skip
    of_case[case](model, tokenizer, pairs[:8])
    begun = time.perf_counter()
    of_case[case](model, tokenizer, pairs)
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measured(case: str, python: str, count: int, emotions: int = 2) -> dict[str, float] | None:
    """The same in a process of its own; None where the library is not installed."""
    command = [python, str(Path(__file__)), "--case", case, "--pairs", str(count), "--emotions", str(emotions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        return None
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(cases: Sequence[str], peers: str, count: int, rounds: int) -> None:
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for case in cases:
            one = measured(case, peers if case in MODULES else sys.executable, count)
            if one is not None:
                found.setdefault(case, []).append(one)
    print("| case | seconds, median | of the floor | memory, MB | of the floor |\n|---|---|---|---|---|")
    base = {key: [run[key] for run in found["floor"]] for key in ("seconds", "mb")}
    for case, runs in found.items():
        cells = []
        for key, form in (("seconds", ".2f"), ("mb", ".0f")):
            # Run by run, since the runs of a round stand beside each other in time.
            ratios = [run[key] / floor for run, floor in zip(runs, base[key], strict=True)]
            spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
            cells += [format(statistics.median(run[key] for run in runs), form), spread]
        print(f"| {case} | {' | '.join(cells)} |", flush=True)


def memory(count: int, rounds: int) -> None:
    cases = {f"{2 * count * times} texts": (count * times, 2) for times in (1, 10, 100)}
    cases |= {f"{20 * count} texts of {emotions} emotions": (10 * count, emotions) for emotions in (24, 171)}
    print(f"\n| emoreg | memory, MB, median of {rounds} | of the first |\n|---|---|---|")
    first = None
    for name, (pairs, emotions) in cases.items():
        runs = [measured("emoreg", sys.executable, pairs, emotions) for _ in range(rounds)]
        mb = [run["mb"] for run in runs if run is not None]
        first = first or statistics.median(mb)
        spread = f"{statistics.median(mb):.0f} ({min(mb):.0f}-{max(mb):.0f})"
        print(f"| {name} | {spread} | {statistics.median(mb) / first:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the other libraries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--memory-rounds", type=int, default=3)
    parser.add_argument("--memory-pairs", type=int, default=26, help="1 x of the memory table")
    parser.add_argument("--case", choices=CASES, help="run one, in this process")
    parser.add_argument("--emotions", type=int, default=2, help="of the one case, for emoreg")
    args = parser.parse_args()
    if args.case in MODULES and importlib.util.find_spec(MODULES[args.case]) is None:
        raise SystemExit(3)
    if args.case:
        run(args.case, args.pairs, args.emotions)
    else:
        compare(CASES, args.peers, args.pairs, args.rounds)
        memory(args.memory_pairs, args.memory_rounds)


if __name__ == "__main__":
    main()
