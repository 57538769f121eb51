"""What the term adds to a run, by counting bytes, flops and traffic. Prints docs/planning.md:

    python scripts/planning.py > docs/planning.md

`tests/scripts/test_planning.py` compares each formula with what is counted on tiny models.

Letters: L layers, D width, K emotions, P penalised ones, n tokens on one GPU in one forward pass, N parameters, R GPUs.
"""

from pathlib import Path
from typing import NamedTuple

from emoreg import Anchor
from emoreg.reading import BINS
from emoreg.reading.matched import LONGEST_LEAD, OWN, TEXTS, TOKENS
from emoreg.reading.reference import READ

GPUS = (1, 8, 64, 1024)
EMOTIONS = (1, 171)
BATCH, LENGTH = 8, 1024  # of one GPU
REFERENCE_TEXTS, REFERENCE_TOKENS = TEXTS, LONGEST_LEAD + TOKENS  # at the longest
LOGGING_STEPS = 10  # TRL's default
GPU_MEMORY, LINK = 80e9, 50e9  # bytes of one GPU; bytes per second that it sends between machines (400 Gb/s)


class Model(NamedTuple):
    """A dense decoder with gated feed-forward layers: the shapes of Llama 3.1 and 3.2, biases none."""

    name: str
    blocks: int
    width: int
    intermediate: int
    key_values: int  # width of all keys, and of all values
    vocabulary: int
    tied: bool

    @property
    def parameters(self) -> int:
        block = 2 * self.width * (self.width + self.key_values + 1) + 3 * self.width * self.intermediate
        return self.blocks * block + self.width * (1 + self.vocabulary * (1 if self.tied else 2))


MODELS = (
    Model("1 B", 16, 2048, 8192, 512, 128256, tied=True),
    Model("8 B", 32, 4096, 14336, 1024, 128256, tied=False),
    Model("70 B", 80, 8192, 28672, 1024, 128256, tied=False),
)


# ---- memory of one GPU, in bytes ----


def constants(L: int, D: int, K: int) -> int:
    """Directions, mean and sd, fp32. They lie on the host too, in the `EmotionVectors`."""
    return 4 * L * K * (D + 2)


def reference(L: int, K: int, P: int, texts: int, tokens: int, counting: int, own: int) -> int:
    """Reference texts and training rows (ids, mask, places of the tokens that count: int64), and in fp32 the base
    model's z at the texts, of penalised emotions, and its mean over the rows, of all."""
    return 8 * (2 * (texts + own) * tokens + counting) + 4 * texts * tokens * L * P + 4 * L * K


def statistics(L: int, K: int) -> int:
    """Of one of the two, training's and evaluation's: sums fp64, maxima fp32, histogram int32, thresholds."""
    return L * K * (3 * 8 + 4 + 4 * BINS) + 4 * K + 8 + 4  # and the count, and the bin of 0


def until_loss(L: int, K: int, P: int, n: int) -> int:
    """z of a pass at all layers, fp32, and once more of penalised emotions: from the forward pass to `Term.loss`."""
    return 4 * L * n * (K + P)


def until_backward(L: int, n: int) -> int:
    """What the backward of one hinge needs: how far each z is above the threshold, fp32, and which are in scope."""
    return 4 * L * n + n


def temporary(D: int, K: int, P: int, n: int, hidden_bytes: int) -> dict[str, int]:
    """The most that is taken and given back within one layer, and where.

    A hidden state that is not fp32 is copied to fp32; the gradient is computed in fp32, then brought to its dtype.
    """
    copied = hidden_bytes != 4
    return {
        "forward": 4 * n * (K + max(D * copied, P)),
        "standardised": 12 * n * K,  # readings, less the mean, over the sd
        "backward": n * D * (4 + hidden_bytes * copied),
        "statistics": n * (16 * K + 5),  # z in scope, fp32, and its bins, fp32 and int64; the scope, bool and int32
    }


def of_log(L: int, K: int, R: int, numbers: int) -> int:
    """The row that ranks add up at a log, fp64: sums, histograms, named numbers, and a place for each rank's maxima."""
    return 8 * (1 + L * K * (3 + BINS) + 2 * numbers + (R * L * K if R > 1 else 0))


# ---- flops of one GPU in one step ----


def projection(L: int, D: int, K: int, P: int, n: int) -> int:
    """Matrix products: readings of K emotions forward, the gradient from P of them backward."""
    return 2 * L * n * D * (K + P)


def anchor_tokens(every: int, texts: int, tokens: int) -> float:
    """Reference tokens that go forward and backward through the model, per optimizer step."""
    return texts * tokens / every


# ---- traffic of one GPU, in bytes sent ----


def all_reduce(size: float, R: int) -> float:
    """What a rank sends in a ring."""
    return 2 * size * (R - 1) / R


def gather(size: float, R: int) -> float:
    """What a rank sends to gather weights that all ranks hold a share of, or to scatter their gradients."""
    return size * (R - 1) / R


# ---- the page ----


def numbers_of_default_set(L: int) -> int:
    """Named numbers in a log: of hinge and anchor, task and term, skipped, empty steps, norms at each layer."""
    return 2 * 2 + 2 + 1 + 1 + 1 + 2 * L


def fits(model: Model, R: int) -> bool:
    """Whether bf16 weights alone, spread over the GPUs, leave half of each free (what LoRA asks for)."""
    return 2 * model.parameters / R <= GPU_MEMORY / 2


def size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
        value /= 1000
    raise AssertionError


def percent(part: float) -> str:
    return f"{100 * part:.2g} %" if part >= 1e-5 else "< 0.001 %"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def memory_table() -> str:
    n, rows = BATCH * LENGTH, []
    for model in MODELS:
        for K in EMOTIONS:
            L, D = model.blocks, model.width
            parts = [
                constants(L, D, K),
                reference(L, K, 1, TEXTS, REFERENCE_TOKENS, (TEXTS + OWN) * TOKENS, OWN),
                2 * statistics(L, K),
                until_loss(L, K, 1, n),
                max(temporary(D, K, 1, n, hidden_bytes=2).values()),
            ]
            rows.append([model.name, str(K), *map(size, [*parts, sum(parts)]), percent(sum(parts) / GPU_MEMORY)])
    header = ["model", "K", "constants", "reference", "statistics", "z until the loss", "temporary", "sum", "of 80 GB"]
    return table(header, rows)


def flops_table() -> str:
    n, anchor, rows = BATCH * LENGTH, Anchor("desperate"), []
    again = anchor_tokens(anchor.every, anchor.texts, REFERENCE_TOKENS) / n
    drift = (READ + OWN) * REFERENCE_TOKENS / LOGGING_STEPS / n
    for model in MODELS:
        for K in EMOTIONS:
            term, N = projection(model.blocks, model.width, K, 1, n), model.parameters
            shares = [term / (6 * N * n), term / (4 * N * n), again, drift / 3, drift / 2]
            rows.append([model.name, str(K), f"{term / 1e12:.2g} T", *map(percent, shares)])
    header = ["model", "K", "projection", "of 6 N n", "of 4 N n (LoRA)", "anchor", "drift", "drift (LoRA)"]
    return table(header, rows)


def traffic_table() -> str:
    rows = []
    for model in MODELS:
        for K in EMOTIONS:
            for R in (R for R in GPUS if fits(model, R)):
                L, N = model.blocks, model.parameters
                row = of_log(L, K, R, numbers_of_default_set(L))
                sent, gathered = all_reduce(row, R), gather(2 * N, R)
                cells = [size(row), size(sent), f"{1000 * sent / LINK:.2g} ms"]
                cells.append(percent(sent / LOGGING_STEPS / (3 * gathered)) if R > 1 else "-")
                rows.append([model.name, str(K), str(R), "0", *cells, size(gathered)])
    header = ["model", "K", "GPUs", "a step", "row of a log", "sent at a log", "takes", "of the run's own"]
    return table([*header, "all weights once"], rows)


def page() -> str:
    every, texts = Anchor("desperate").every, Anchor("desperate").texts
    return (Path(__file__).with_suffix(".md").read_text(encoding="utf-8").rstrip()).format(
        memory_table=memory_table(),
        flops_table=flops_table(),
        traffic_table=traffic_table(),
        every=every,
        texts=texts,
        hinge=size(until_backward(80, BATCH * LENGTH)),
        fewest=min(R for R in GPUS if fits(MODELS[-1], R)),
        again=percent(1 / every),
        of_8=percent(1 / every / 8),
        per_layer=3 + BINS,
        drift=percent(1 / 3 / LOGGING_STEPS),
        drift_of_8=percent(1 / 3 / LOGGING_STEPS / 8),
        gb_per_second=LINK / 1e9,
        BATCH=BATCH,
        LENGTH=LENGTH,
        LOGGING_STEPS=LOGGING_STEPS,
        REFERENCE_TEXTS=REFERENCE_TEXTS,
        REFERENCE_TOKENS=REFERENCE_TOKENS,
    )


if __name__ == "__main__":
    print(page())
