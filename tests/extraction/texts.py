"""Texts with a planted emotion, and the slow, obvious way to extract it."""

import random

import numpy as np
import torch

from emoreg.corpus import LabelledText

MARKERS = {"desperate": "!", "calm": "?", "sad": "#"}


def story(rng: random.Random, length: int, marker: str = "", after: int = 0) -> str:
    """Random letters; from position ``after`` on, one in three is the marker."""
    letters = [rng.choice("abcdefghij ") for _ in range(length)]
    for at in range(after, length):
        if marker and rng.random() < 1 / 3:
            letters[at] = marker
    return "x" + "".join(letters)


def corpus(n: int = 8, short: int = 60, long: int = 100, after: int = 0, seed: int = 0) -> list[LabelledText]:
    """``n`` texts of each emotion, of ``short`` to ``long`` letters."""
    rng = random.Random(seed)
    return [
        LabelledText(story(rng, rng.randint(short, long), marker, after), emotion)
        for _ in range(n)
        for emotion, marker in MARKERS.items()
    ]


def neutral(n: int = 10, short: int = 20, long: int = 90, seed: int = 1) -> list[str]:
    """``n`` texts without a marker."""
    rng = random.Random(seed)
    return [story(rng, rng.randint(short, long)) for _ in range(n)]


def plant(model, tokenizer, strength: float = 0.5, seed: int = 0) -> torch.Tensor:
    """Give each marker's embedding a direction of its own; returns these (K, D), orthonormal."""
    size = model.config.hidden_size
    q, _ = torch.linalg.qr(torch.randn(size, len(MARKERS), generator=torch.Generator().manual_seed(seed)))
    with torch.no_grad():
        for direction, marker in zip(q.T, MARKERS.values(), strict=True):
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(marker)] += strength * direction
    return q.T


def hidden_states(model, ids: list[int]) -> list[np.ndarray]:
    """Every block's output for one text, (T, D) each, from `output_hidden_states`; the last one by a hook, since there
    the convention is to apply the final norm."""
    last = []
    handle = model.model.layers[-1].register_forward_hook(lambda _m, _a, output: last.append(output))
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    handle.remove()
    return [state[0].double().numpy() for state in (*states[1:-1], last[0])]


def slow_extract(
    model, texts: list[LabelledText], plain: list[str], encode, from_token: int, n_refs: int, ref_len: int
):
    """One text at a time, with Python loops. ``encode`` gives a text's ids and the number of them that are BOS."""
    model.eval()
    emotions = list(dict.fromkeys(item.emotion for item in texts))
    n_layers = model.config.num_hidden_layers
    result = {name: [] for name in ("directions", "mean", "std", "residual_norm", "reference_z")}
    for layer in range(n_layers):
        means = []
        for emotion in emotions:
            vectors = []
            for item in texts:
                if item.emotion == emotion:
                    ids, n_bos = encode(item.text)
                    tokens = hidden_states(model, ids)[layer][n_bos:]
                    # The first position of a text without BOS is an attention sink, and never read.
                    kept = tokens[from_token - 1 :] if len(tokens) >= from_token else tokens
                    if n_bos == 0 and len(kept) == len(tokens):
                        kept = kept[1:]
                    vectors.append(kept.mean(0))
            means.append(np.mean(vectors, 0))
        directions = [mean - np.mean(means, 0) for mean in means]
        directions = np.stack([direction / np.linalg.norm(direction) for direction in directions])
        readings, norms, reference = [], [], []
        for n, text in enumerate(plain):
            ids, n_bos = encode(text)
            tokens = hidden_states(model, ids)[layer][max(n_bos, 1) :]
            readings.append(tokens @ directions.T)
            norms.append(np.linalg.norm(tokens, axis=1))
            if n < n_refs:
                kept = np.full((ref_len, len(emotions)), np.nan)
                kept[max(n_bos, 1) : len(ids)] = (
                    hidden_states(model, ids[:ref_len])[layer][max(n_bos, 1) :] @ directions.T
                )
                reference.append(kept)
        mean, std = np.concatenate(readings).mean(0), np.concatenate(readings).std(0)
        result["directions"].append(directions)
        result["mean"].append(mean)
        result["std"].append(std)
        result["residual_norm"].append(np.concatenate(norms).mean())
        result["reference_z"].append(np.nan_to_num((np.stack(reference) - mean) / std))
    stacked = {name: np.stack(value) for name, value in result.items()}
    stacked["reference_z"] = np.moveaxis(stacked["reference_z"], 0, 2)
    return stacked
