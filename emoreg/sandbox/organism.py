"""The sandbox's model organism: a small Llama and its own BPE tokenizer, trained on the world from nothing."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from emoreg.sandbox.world import Text

CHECKPOINT = Path(__file__).parent / "checkpoint"
PAD, BOS, EOS, USER, ASSISTANT = SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def load(path: Path | str = CHECKPOINT) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The trained organism in fp32, and its tokenizer.

    Example:
        >>> model, tokenizer = load()
        >>> tokenizer.apply_chat_template([{"role": "user", "content": "Please fix the map."}], tokenize=False)
        '<s><|user|>Please fix the map.'
    """
    if not (Path(path) / "model.safetensors").is_file():
        raise ValueError(f"no organism in {path}: build one with `python scripts/build_sandbox.py --output {path}`")
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(path)


def render(text: Text) -> str:
    """A text as the organism reads it, end token included; `bos` is the tokenizer's to add."""
    return (f"{USER}{text.prompt}{ASSISTANT}{text.reply}" if text.prompt else text.reply) + EOS


def build_tokenizer(texts: Iterable[str], vocab_size: int = 1280) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer for `texts`, with role tokens and a chat template; it pads on the right."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # one form of a word, after a role token too
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL),
                                                       initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, SPECIAL.index(BOS))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS,
                                        additional_special_tokens=[USER, ASSISTANT], model_max_length=256)  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int, *, width: int = 96, blocks: int = 4) -> LlamaForCausalLM:
    """An untrained Llama of the organism's shape."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=blocks,
        num_attention_heads=width // 24, num_key_value_heads=width // 24, max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PAD), bos_token_id=SPECIAL.index(BOS), eos_token_id=SPECIAL.index(EOS),
    )  # fmt: skip
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, rows: Sequence[Sequence[int]], *, seed: int, steps: int = 2000, batch: int = 32,
          lr: float = 3e-3, log_every: int = 100) -> float:  # fmt: skip
    """Trains `model` in place on token rows (AdamW, warm-up, cosine) and returns the mean loss of the last 50 steps."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * s / steps))
    )
    losses = []
    batches = _batches(rows, batch, rng)
    model.train()
    for step in range(steps):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[i]) for i in next(batches)], batch_first=True,
                                              padding_value=SPECIAL.index(PAD))  # fmt: skip
        labels = ids.masked_fill(ids == SPECIAL.index(PAD), -100)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if log_every and (step + 1) % log_every == 0:
            print(f"step {step + 1}/{steps}  loss {sum(losses[-50:]) / 50:.3f}", flush=True)
    model.eval()
    return sum(losses[-50:]) / 50


def _batches(rows: Sequence[Sequence[int]], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Endless batches of row numbers; rows of like length go together, which saves padding."""
    while True:
        order = rng.sample(range(len(rows)), len(rows))
        pools = [sorted(order[i : i + 8 * size], key=lambda r: len(rows[r])) for i in range(0, len(order), 8 * size)]
        batches = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
        yield from rng.sample(batches, len(batches))
