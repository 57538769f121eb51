"""The only place that knows trainers: the callback, the reward, the options, and what single trainers need."""

from emoreg.training.callback import RegularizerCallback
from emoreg.training.config import RegularizerConfig
from emoreg.training.regularize import regularize
from emoreg.training.reward import EmotionReward

__all__ = ["EmotionReward", "RegularizerCallback", "RegularizerConfig", "regularize"]
