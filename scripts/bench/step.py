"""What a regularizer costs a training step: `python scripts/bench/step.py`

Time: each case is timed step by step in turn with the plain step, in one process, on twins of one model and the same
batch, so that what else the machine does meets both alike. One sample is the sum over a *cycle* of as many steps as the
default anchor's `every`, since the anchor's forward pass comes once in a cycle: a median over single steps would not
see it.

Memory: the peak of a fresh process per case; of the accelerator if there is one, else of resident memory.

Every case includes the statistics of all emotions that it reads, but not bringing them to the host at a log, nor the
gradient norms that the callback measures every n-th step.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from emoreg import Anchor, EmotionVectors, Hinge, Regularizer
from emoreg.penalties import default_penalties
from emoreg.provenance import Provenance, config_hash, sample_weights

CYCLE = Anchor("desperate").every
NAMES = ("plain", "four", "all", "default", "naive")
TITLES = {
    "plain": "plain step",
    "four": "hinge, 1 emotion at 4 layers",
    "all": "hinge, {emotions} emotions at all layers",
    "default": "default set (hinge + anchor), {emotions} at all layers",
    "naive": "output_hidden_states, {emotions} at all layers",
}
BOUNDS = {"four": 1.02, "all": 1.05, "default": 1.10}

Term = Callable[[dict[str, Tensor]], Tensor]
"""Runs the model on a batch and returns the loss."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--emotions", type=int, default=171)
    parser.add_argument("--dtype", default="float32", help="of the model's weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cycles", type=int, default=8, help="timed cycles per case")
    parser.add_argument("--cases", nargs="+", choices=NAMES[1:], default=NAMES[1:])
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--peak-of", choices=NAMES, help=argparse.SUPPRESS)  # the process that measures one case
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def make(args: argparse.Namespace) -> tuple[LlamaForCausalLM, dict[str, Tensor]]:
    """A random model and batch, the first quarter of each text a prompt."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=args.width * 11 // 4,
        num_hidden_layers=args.blocks,
        num_attention_heads=max(1, args.width // 64),
        num_key_value_heads=max(1, args.width // 64),
        max_position_embeddings=max(args.tokens, 64),
    )
    model = LlamaForCausalLM(config).to(args.device, getattr(torch, args.dtype)).train()
    ids = torch.randint(3, args.vocabulary, (args.batch, args.tokens), device=args.device)
    labels = ids.clone()
    labels[:, : args.tokens // 4] = -100
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def random_vectors(model: LlamaForCausalLM, emotions: int) -> EmotionVectors:
    """Directions that mean nothing cost what real ones do. The reference texts are as many and long as extraction's."""
    L, K, D = model.config.num_hidden_layers, emotions, model.config.hidden_size
    ids = torch.randint(3, model.config.vocab_size, (16, 64))
    return EmotionVectors(
        emotions=("desperate", *(f"emotion {k}" for k in range(1, K))),
        layers=tuple(range(L)),
        directions=nn.functional.normalize(torch.randn(L, K, D), dim=-1),
        mean=torch.zeros(L, K),
        std=torch.ones(L, K),
        residual_norm=torch.ones(L),
        reference_ids=ids,
        reference_mask=torch.ones_like(ids, dtype=torch.bool),
        reference_z=torch.zeros(*ids.shape, L, K),
        provenance=Provenance("random", None, config_hash(model), "", "", "random", ""),
        weights=sample_weights(model),
    )


@contextmanager
def case(name: str, model: LlamaForCausalLM, vectors: EmotionVectors) -> Iterator[Term]:
    """The forward pass and loss of one case, while the context is open."""
    if name == "plain":
        yield lambda batch: model(**batch).loss
    elif name == "naive":
        yield naive(model, vectors)
    else:
        layers = vectors.layers
        middle = layers[len(layers) // 2 - 2 :][:4]
        regularizer = {
            "four": lambda: Regularizer(vectors.select(["desperate"], middle), [Hinge("desperate", weight=0.1)]),
            "all": lambda: Regularizer(vectors, [Hinge("desperate", weight=0.1)]),
            "default": lambda: Regularizer(vectors, default_penalties("desperate")),
        }[name]()
        with regularizer.attach(model) as term:
            yield lambda batch: model(**batch).loss + term.loss(batch)


def naive(model: LlamaForCausalLM, vectors: EmotionVectors) -> Term:
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


def prepared(name: str, args: argparse.Namespace, stack: ExitStack) -> Callable[[], float]:
    """A function that makes one training step of a case and returns its seconds, for as long as the stack is open."""
    model, batch = make(args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    loss = stack.enter_context(case(name, model, random_vectors(model, args.emotions)))
    return lambda: step(loss, batch, optimizer)


def timed(name: str, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds per cycle of the plain step and of a case, step by step in turn; which goes first changes every time."""
    with ExitStack() as stack:
        plain, other = (prepared(which, args, stack) for which in ("plain", name))
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
        one_step = prepared(args.peak_of, args, stack)
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
    print(
        f"Llama {args.width} x {args.blocks}, vocabulary {args.vocabulary}, {args.dtype}, batch {args.batch} x "
        f"{args.tokens}, {args.device}, torch {torch.__version__}, {args.threads} threads; "
        f"{args.cycles} cycles of {CYCLE} steps\n"
    )
    print(f"{'ms per step':52} {'plain':>8} {'case':>8} {'ratio':>6} {'[quartiles]':>14} {'bound':>6} {'peak MiB':>9}")
    memory = {} if args.no_memory else {name: peak_in_fresh_process(name) for name in ("plain", *args.cases)}
    for name in ("plain", *args.cases):
        title = TITLES[name].format(emotions=args.emotions)
        used = f"{memory[name]:9.0f}" if memory else ""
        if name == "plain":
            print(f"{title:52} {'':46} {used}")
            continue
        plain, with_term = timed(name, args)
        low, _, high = statistics.quantiles([b / a for a, b in zip(plain, with_term, strict=True)], n=4)
        ratio = statistics.median(with_term) / statistics.median(plain)
        bound = f"{BOUNDS[name]:.2f}" if name in BOUNDS else ""
        ms = [statistics.median(seconds) / CYCLE * 1000 for seconds in (plain, with_term)]
        print(
            f"{title:52} {ms[0]:8.1f} {ms[1]:8.1f} {ratio:6.3f} [{low:.3f}, {high:.3f}] {bound:>6} {used}", flush=True
        )


if __name__ == "__main__":
    main()
