"""The regularizer's options as a dataclass: what TRL's `TrlParser` turns into YAML keys and command-line flags."""

from dataclasses import dataclass, field
from typing import Literal

from emoreg import checks
from emoreg.penalties import Anchor, Hinge, Penalty
from emoreg.regularizer import Regularizer
from emoreg.schedules import Schedule, check_steps, constant, cosine, linear
from emoreg.vectors import EmotionVectors


@dataclass
class RegularizerConfig:
    """Options of a `Regularizer` for training scripts. `build` makes it."""

    vectors: str = field(metadata={"help": "File of emotion vectors, from `emoreg extract`."})
    emotion: str = field(default="desperate", metadata={"help": "The emotion to keep down."})
    hinge_weight: float = field(default=0.05, metadata={"help": "Weight of the hinge; 0 only watches."})
    hinge_threshold: float = field(default=0.0, metadata={"help": "z above which the hinge acts."})
    anchor_weight: float = field(default=0.3, metadata={"help": "Weight of the anchor on neutral text; 0 for none."})
    anchor_every: int = field(default=4, metadata={"help": "The anchor's forward pass joins every so many steps."})
    scope: str = field(
        default="completion", metadata={"help": "Positions: completion, prompt, all, reply_start or last:k."}
    )
    emotion_layers: list[int] | None = field(default=None, metadata={"help": "Blocks to read; all of the file's."})
    monitor: list[str] | None = field(default=None, metadata={"help": "Emotions to log; all of the file's."})
    term_schedule: Literal["constant", "linear", "cosine"] = field(
        default="constant", metadata={"help": "How the weights rise and fall: constant, linear or cosine."}
    )
    term_warmup_steps: int = field(default=0, metadata={"help": "Steps over which the weights rise."})
    term_total_steps: int | None = field(default=None, metadata={"help": "Step at which they have fallen to 0."})

    def __post_init__(self):
        for name in ("hinge_weight", "anchor_weight"):
            checks.number(name, getattr(self, name), 0.0)
        checks.number("hinge_threshold", self.hinge_threshold)
        checks.whole("anchor_every", self.anchor_every, 1)
        check_steps(self.term_warmup_steps, self.term_total_steps, prefix="term_")
        if self.emotion_layers is not None:
            checks.layers("emotion_layers", self.emotion_layers)
        checks.option("term_schedule", self.term_schedule, ("constant", "linear", "cosine"))

    def build(self) -> Regularizer:
        """Load the vectors and make the regularizer.

        Raises:
            ValueError: for a file, emotion, layer, scope or number that will not do.
        """
        vectors = EmotionVectors.load(self.vectors).select(layers=self.emotion_layers)
        vectors.index(self.emotion)  # also where both weights are 0, and nothing else would look at it
        penalties: list[Penalty] = []
        if self.hinge_weight:
            hinge = Hinge(self.emotion, weight=self.hinge_weight, threshold=self.hinge_threshold, scope=self.scope)
            penalties.append(hinge)
        if self.anchor_weight:
            penalties.append(Anchor(self.emotion, weight=self.anchor_weight, every=self.anchor_every))
        return Regularizer(vectors, penalties, scope=self.scope, schedule=self._schedule(), monitor=self.monitor)

    def _schedule(self) -> Schedule:
        if self.term_schedule == "constant":
            if self.term_warmup_steps or self.term_total_steps:
                raise ValueError(
                    "term_warmup_steps and term_total_steps need term_schedule linear or cosine, got constant"
                )
            return constant()
        shape = {"linear": linear, "cosine": cosine}[self.term_schedule]
        return shape(self.term_warmup_steps, self.term_total_steps)
