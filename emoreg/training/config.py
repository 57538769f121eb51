"""The regularizer's options as a dataclass: what TRL's `TrlParser` turns into YAML keys and command-line flags."""

from dataclasses import dataclass, field
from typing import Literal

from transformers import AutoTokenizer

from emoreg import checks
from emoreg.reading import Reasoning, Scope
from emoreg.regularizer import (
    ANCHOR_WEIGHT,
    HINGE_WEIGHT,
    Anchor,
    Hinge,
    Regularizer,
    Schedule,
    Target,
    check_steps,
    constant,
    cosine,
    linear,
)
from emoreg.vectors import EmotionVectors, find


@dataclass
class RegularizerConfig:
    """Options of a `Regularizer` for training scripts. `build` makes it."""

    vectors: str = field(
        metadata={"help": "Emotion vectors: a file (from `emoreg extract`), a hub id, or wandb: and an artifact."}
    )
    emotion: str = field(default="desperate", metadata={"help": "The emotion to keep down."})
    hinge_weight: float = field(
        default=HINGE_WEIGHT,
        metadata={"help": "Weight of the hinge; 0 for none, and with anchor_weight 0 too a run only watched."},
    )
    hinge_threshold: float = field(default=0.0, metadata={"help": "z above which the hinge acts."})
    anchor_weight: float = field(
        default=ANCHOR_WEIGHT, metadata={"help": "Weight of the anchor on reference text; 0: none."}
    )
    anchor_every: int = field(default=4, metadata={"help": "The anchor's forward pass joins every so many steps."})
    scope: str = field(
        default="completion",
        metadata={"help": "Positions: completion, prompt, all, reply_start, last:k or reasoning; chosen:, rejected:, "
                          "desirable:, undesirable: or both: may stand before it."},
    )  # fmt: skip
    reasoning_markers: list[str] = field(
        default_factory=lambda: ["<think>", "</think>"], metadata={"help": "What scope reasoning lies between."}
    )
    emotion_layers: list[int] | str | None = field(
        default=None, metadata={"help": "Blocks to read, as 4,5,8-12 (in YAML a list too); all of the file's. trusted: "
                          "read all, and act at those that `emoreg validate` trusts."},
    )  # fmt: skip
    monitor: list[str] | None = field(default=None, metadata={"help": "Emotions to log; all of the file's."})
    term_schedule: Literal["constant", "linear", "cosine"] = field(
        default="constant", metadata={"help": "How the weights rise and fall: constant, linear or cosine."}
    )
    term_warmup_steps: int = field(default=0, metadata={"help": "Steps over which the weights rise."})
    term_total_steps: int | None = field(default=None, metadata={"help": "Step at which they have fallen to 0."})
    target_at_most: float | None = field(
        default=None, metadata={"help": "Contrast to hold; the hinge's weight is then sought, from hinge_weight on."}
    )
    target_above_base: float | None = field(
        default=None, metadata={"help": "The same, above the base model's contrast."}
    )
    target_task_budget: float | None = field(
        default=None, metadata={"help": "Task loss at which the search for a weight backs off."}
    )
    references: Literal["rows", "file"] = field(
        default="rows", metadata={"help": "Reference text: in the training rows' format, or the vectors' plain one."}
    )
    non_finite: Literal["stop", "skip"] = field(
        default="stop", metadata={"help": "A later term that is not finite: stop the run, or skip it."}
    )

    def __post_init__(self):
        for name in ("hinge_weight", "anchor_weight"):
            checks.number(name, getattr(self, name), 0.0)
        checks.number("hinge_threshold", self.hinge_threshold)
        checks.integer("anchor_every", self.anchor_every, 1)
        check_steps(self.term_warmup_steps, self.term_total_steps, prefix="term_")
        if not (isinstance(self.emotion_layers, str) and self.emotion_layers == "trusted"):
            if isinstance(self.emotion_layers, str):
                self.emotion_layers = checks.layers_in("emotion_layers", self.emotion_layers)
            if self.emotion_layers is not None:
                checks.layers("emotion_layers", self.emotion_layers)
        checks.option("term_schedule", self.term_schedule, ("constant", "linear", "cosine"))
        checks.names("reasoning_markers", self.reasoning_markers)
        checks.refuse_unless(len(self.reasoning_markers) == 2, "reasoning_markers", "two", self.reasoning_markers)

    def build(self, tokenizer: str | None = None) -> Regularizer:
        """Load the vectors and make the regularizer.

        Args:
            tokenizer: hub id or folder of the model's tokenizer; scope ``reasoning`` needs it.

        Raises:
            ValueError: for a file, emotion, layer, scope or number that will not do.
        """
        scope = self.build_scope(tokenizer)
        vectors = self.load_vectors()
        vectors.index(self.emotion)  # also where both weights are 0, and nothing else would look at it
        layers = "trusted" if self.emotion_layers == "trusted" else None
        hinge = Hinge(
            self.emotion, weight=self.hinge_weight, threshold=self.hinge_threshold, scope=scope, layers=layers
        )
        anchor = Anchor(self.emotion, weight=self.anchor_weight, every=self.anchor_every, layers=layers)
        target = self._target()
        return Regularizer(
            vectors,
            [penalty for penalty in (hinge, anchor) if penalty.weight],
            scope=scope,
            schedule=self._schedule() if target is None else None,
            target=target,
            monitor=self.monitor,
            references=self.references,
            non_finite=self.non_finite,
        )

    def load_vectors(self) -> EmotionVectors:
        """The file's vectors, at the chosen layers."""
        layers = self.emotion_layers
        assert not isinstance(layers, str) or layers == "trusted", "__post_init__ has read it"
        return find(self.vectors).select(layers=None if isinstance(layers, str) else layers)

    def build_scope(self, tokenizer: str | None = None) -> Scope:
        """The scope by its name, or `Reasoning` between its markers."""
        if self.scope != "reasoning":
            return self.scope
        checks.text("tokenizer", tokenizer, "the tokenizer's hub id or folder for scope 'reasoning'")
        return Reasoning.between(AutoTokenizer.from_pretrained(tokenizer), *self.reasoning_markers)

    def _target(self) -> Target | None:
        at_most, above_base, budget = self.target_at_most, self.target_above_base, self.target_task_budget
        if (at_most, above_base, budget) == (None, None, None):
            return None
        if self.term_schedule != "constant":
            raise ValueError(f"term_schedule must be constant where a target is given, got {self.term_schedule!r}")
        return Target(self.emotion, at_most=at_most, above_base=above_base, task_budget=budget)

    def _schedule(self) -> Schedule:
        if self.term_schedule == "constant":
            if self.term_warmup_steps or self.term_total_steps:
                raise ValueError(
                    "term_warmup_steps and term_total_steps need term_schedule linear or cosine, got constant"
                )
            return constant()
        shape = {"linear": linear, "cosine": cosine}[self.term_schedule]
        return shape(self.term_warmup_steps, self.term_total_steps)
