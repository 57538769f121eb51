"""What a regularizer costs a training step: `python scripts/bench/step.py`

Time: each case is timed step by step in turn with the plain step, in one process, on twins of one model and the same
batch, so that what else the machine does meets both alike. One sample is the sum over a *cycle* of as many steps as the
default anchor's `every`, since the anchor's forward pass comes once in a cycle: a median over single steps would not
see it.

Memory: the peak of a fresh process per case; of the accelerator if there is one, else of resident memory.

Every case includes the statistics of all emotions that it reads, but not bringing them to the host at a log, nor the
gradient norms that the callback measures every n-th step.

On an accelerator, at the shapes of models that people fine-tune:

    python scripts/bench/step.py --shape 1.5b --lora --batch 8 --tokens 1024
    python scripts/bench/step.py --shape 8b --lora --checkpointing --batch 8 --tokens 1024

With --lora the twins share the frozen weights, so that an 8 B model and its twin fit one GPU of 80 GB.
"""

import argparse
import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from emoreg import Anchor, EmotionVectors, Hinge, Regularizer
from emoreg.regularizer import default_penalties
from emoreg.vectors import Provenance, config_hash, sample_weights

CYCLE = Anchor("desperate").every
TITLES = {
    "plain": "plain step",
    "third": "hinge, 1 emotion at a third of the layers",
    "four": "hinge, 1 emotion at 4 layers",
    "all": "hinge, {emotions} emotions at all layers",
    "default": "default set (hinge + anchor), {emotions} at all layers",
    "naive": "output_hidden_states, {emotions} at all layers",
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 8, "vocab_size": 8192,
    },
    "1.5b": {  # as Qwen2.5-1.5B
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "8b": {  # as Llama-3.1-8B
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256,
    },
}  # fmt: skip
FULL_SIZE = {"third": 1.01, "all": 1.02, "default": 1.10}
BOUNDS = {"tiny": {"four": 1.02, "all": 1.05, "default": 1.10}, "1.5b": FULL_SIZE, "8b": FULL_SIZE}
"""On the ratio of times. The peak of "third" may also be 1 % above the plain step's, at full size."""

Term = Callable[[dict[str, Tensor]], Tensor]
"""Runs the model on a batch and returns the loss."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--blocks", type=int, help="fewer than the shape has, to try something out")
    parser.add_argument("--lora", action="store_true", help="train adapters on all linear layers, not the weights")
    parser.add_argument("--checkpointing", action="store_true", help="compute each block again in backward")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--emotions", type=int, default=171)
    parser.add_argument("--dtype", help="of the weights; by default float32 if tiny, else bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cycles", type=int, default=8, help="timed cycles per case")
    parser.add_argument("--cases", nargs="+", choices=list(TITLES)[1:], help="by default those with a bound, and naive")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--peak-of", choices=TITLES, help=argparse.SUPPRESS)  # the process that measures one case
    args = parser.parse_args()
    args.blocks = args.blocks or SHAPES[args.shape]["num_hidden_layers"]
    args.dtype = args.dtype or ("float32" if args.shape == "tiny" else "bfloat16")
    args.cases = args.cases or [*BOUNDS[args.shape], "naive"]
    torch.set_num_threads(args.threads)
    return args


def make(args: argparse.Namespace) -> tuple[Any, dict[str, Tensor]]:
    """A random model and batch, the first quarter of each text a prompt."""
    torch.manual_seed(0)
    shape = SHAPES[args.shape] | {"num_hidden_layers": args.blocks, "max_position_embeddings": max(args.tokens, 64)}
    config = LlamaConfig(**shape, use_cache=False)
    with torch.device(args.device):  # not on the host first: 8 B parameters in fp32 are 32 GB
        model: Any = LlamaForCausalLM._from_config(config, dtype=getattr(torch, args.dtype))
    if args.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if args.lora:
        from peft import LoraConfig, get_peft_model

        # Adapters in the weights' dtype: in fp32, without autocast, they would make the plain step slow.
        lora = LoraConfig(r=16, target_modules="all-linear")
        model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    ids = torch.randint(3, config.vocab_size, (args.batch, args.tokens), device=args.device)
    labels = ids.clone()
    labels[:, : args.tokens // 4] = -100
    return model.train(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def twin_of(model: nn.Module) -> nn.Module:
    """A model to be trained beside another one; what neither trains they share."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def random_vectors(model: Any, emotions: int) -> EmotionVectors:
    """Directions that mean nothing cost what real ones do. The reference texts are as many and long as extraction's."""
    L, K, D = model.config.num_hidden_layers, emotions, model.config.hidden_size
    ids = torch.randint(3, model.config.vocab_size, (16, 64))
    return EmotionVectors(
        emotions=("desperate", *(f"emotion {k}" for k in range(1, K))),
        layers=tuple(range(L)),
        directions=nn.functional.normalize(torch.randn(L, K, D), dim=-1),
        mean=torch.zeros(L, K),
        std=torch.ones(L, K),
        separation=torch.ones(L, K),
        residual_norm=torch.ones(L),
        reference_ids=ids,
        reference_mask=torch.ones_like(ids, dtype=torch.bool),
        reference_z=torch.zeros(*ids.shape, L, K),
        provenance=Provenance("random", None, config_hash(model), "", "", "random", ""),
        weights=sample_weights(model),
    )


@contextmanager
def case(name: str, model: Any, vectors: EmotionVectors) -> Iterator[Term]:
    """The forward pass and loss of one case, while the context is open."""
    if name == "plain":
        yield lambda batch: model(**batch).loss
    elif name == "naive":
        yield naive(model, vectors)
    else:
        layers, hinge = vectors.layers, Hinge("desperate", weight=0.1)
        if name in ("third", "four"):
            n = 4 if name == "four" else max(1, len(layers) // 3)
            vectors = vectors.select(["desperate"], layers[(len(layers) - n) // 2 :][:n])
        penalties = default_penalties("desperate") if name == "default" else [hinge]
        with Regularizer(vectors, penalties).attach(model) as term:
            yield lambda batch: model(**batch).loss + term.loss(batch)


def naive(model: Any, vectors: EmotionVectors) -> Term:
    """The same hinge and the mean of every z, written the plain way."""
    device = model.device
    directions, mean, std = (t.to(device) for t in (vectors.directions, vectors.mean, vectors.std))
    means = torch.zeros_like(mean)

    def loss(batch: dict[str, Tensor]) -> Tensor:
        out = model(**batch, output_hidden_states=True)
        scope = batch["labels"] != -100
        term = torch.zeros((), device=device)
        for row, hidden in enumerate(out.hidden_states[1:]):
            z = (hidden.float() @ directions[row].T - mean[row]) / std[row]
            term = term + torch.relu(z[..., 0])[scope].square().mean() / len(directions)
            means[row] += z.detach()[scope].mean(0)
        return out.loss + 0.1 * term

    return loss


def step(loss: Term, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Seconds that one training step takes."""
    synchronise = torch.cuda.synchronize if batch["input_ids"].is_cuda else lambda: None
    synchronise()
    begin = time.perf_counter()
    loss(batch).backward()
    optimizer.step()
    optimizer.zero_grad()
    synchronise()
    return time.perf_counter() - begin


def prepared(name: str, model: Any, batch: dict[str, Tensor], emotions: int, stack: ExitStack) -> Callable[[], float]:
    """A function that makes one training step of a case and returns its seconds, for as long as the stack is open."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    loss = stack.enter_context(case(name, model, random_vectors(model, emotions)))
    return lambda: step(loss, batch, optimizer)


def timed(name: str, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds per cycle of the plain step and of a case, step by step in turn; which goes first changes every time."""
    model, batch = make(args)
    with ExitStack() as stack:
        twins = (("plain", model), (name, twin_of(model)))
        plain, other = (prepared(which, one, batch, args.emotions, stack) for which, one in twins)
        cycles: list[tuple[float, float]] = []
        for _ in range(1 + args.cycles):  # the first is to warm up
            seconds = [0.0, 0.0]
            for i in range(CYCLE):
                for which in (0, 1) if i % 2 else (1, 0):
                    seconds[which] += (plain, other)[which]()
            cycles.append((seconds[0], seconds[1]))
    return [a for a, _ in cycles[1:]], [b for _, b in cycles[1:]]


def peak(args: argparse.Namespace) -> float:
    """MiB at the peak of a cycle of one case, which this process must not have exceeded before."""
    with ExitStack() as stack:
        one_step = prepared(args.peak_of, *make(args), args.emotions, stack)
        for _ in range(CYCLE + 1):
            one_step()
    if args.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rss / (2**20 if sys.platform == "darwin" else 2**10)


def peak_in_fresh_process(name: str) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", name]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    args = parse()
    if args.peak_of:
        print(peak(args))
        return
    parameters = list(make(argparse.Namespace(**vars(args) | {"device": "meta"}))[0].parameters())
    every, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    print(
        f"Llama {args.shape}, {args.blocks} blocks, {every:.3g} parameters of which {trained:.3g} train, {args.dtype}, "
        f"checkpointing {'on' if args.checkpointing else 'off'}, batch {args.batch} x {args.tokens}, {args.device}, "
        f"torch {torch.__version__}, {args.threads} threads; {args.cycles} cycles of {CYCLE} steps\n"
    )
    columns = f"{'plain':>8} {'case':>8} {'ratio':>6} {'[quartiles]':>14} {'bound':>6} {'peak MiB':>9} {'added':>6}"
    print(f"{'ms per step':52} {columns}")
    memory = {} if args.no_memory else {name: peak_in_fresh_process(name) for name in ("plain", *args.cases)}
    for name in ("plain", *args.cases):
        title = TITLES[name].format(emotions=args.emotions)
        used = f"{memory[name]:9.0f} {memory[name] / memory['plain'] - 1:6.1%}" if memory else ""
        if name == "plain":
            print(f"{title:52} {'':46} {used}")
            continue
        plain, with_term = timed(name, args)
        low, _, high = statistics.quantiles([b / a for a, b in zip(plain, with_term, strict=True)], n=4)
        ratio = statistics.median(with_term) / statistics.median(plain)
        bound = f"{BOUNDS[args.shape][name]:.2f}" if name in BOUNDS[args.shape] else ""
        ms = [statistics.median(seconds) / CYCLE * 1000 for seconds in (plain, with_term)]
        print(
            f"{title:52} {ms[0]:8.1f} {ms[1]:8.1f} {ratio:6.3f} [{low:.3f}, {high:.3f}] {bound:>6} {used}", flush=True
        )


if __name__ == "__main__":
    main()
