"""The model card of a set of vectors: what they are, how to use them, and what speaks for them."""

import json
import os
import re
from dataclasses import asdict
from typing import Any

from emoreg.vectors.emotion_vectors import EmotionVectors
from emoreg.vectors.storage import FORMAT

FILE = "vectors.safetensors"
"""What the file is called in a repository or an artifact."""

_CARD = """---
library_name: emoreg
tags: [emoreg, activation-steering, interpretability]
{base_model}---

# Emotion vectors of {model}

Directions in the residual stream of {model} along which it tells {n_emotions} emotions apart, at {n_layers} of its
blocks, with the readings of neutral text that calibrate them. Made with emoreg.

| | |
|---|---|
| emotions | {emotions} |
| blocks, from 0 | {layers} |
| width | {width} |
| model | {model}, revision {revision} |
| method | {method} |
| tokens read | {token_rule} |
| texts | {counts} |
| hash of texts | `{corpus_hash}` |
| hashes of architecture, tokenizer | `{config_hash}`, `{tokenizer_hash}` |
| made with | {versions} |
| format | `{format}`: safetensors, nothing pickled |
| fingerprint | `{fingerprint}` |

{separations}

## Use

```python
import emoreg

emoreg.regularize(trainer, "{repo_id}")  # before trainer.train(); another model's trainer is refused
```

The vectors themselves:

```python
from emoreg.vectors import pull_from_hub

vectors = pull_from_hub("{repo_id}")
```

or download `{file}` and read it with `EmotionVectors.load`.

## Evidence

{validation}

## Limits

They are of this model and of fine-tunes of it, and mean nothing in another. A reading says how the model represents
text, not what anything feels. Directions fitted on one kind of text may read another kind otherwise, and pushing a
reading down need not take away what it stood for.
"""


def model_card(vectors: EmotionVectors, repo_id: str = "user/name") -> str:
    """A README for the vectors: Markdown, with the front matter that the Hub reads.

    Args:
        vectors: what to describe.
        repo_id: under which name they will be found, for the lines that load them.
    """
    source, ratio_LK = vectors.provenance, vectors.separation / vectors.residual_norm[:, None]
    rows = [
        f"| {_cell(emotion)} | {100 * low:.1f} | {100 * high:.1f} |"
        for emotion, low, high in zip(
            vectors.emotions, ratio_LK.amin(0).tolist(), ratio_LK.amax(0).tolist(), strict=True
        )
    ]
    title = "| emotion | separation, % of the residual norm: least | and most of the blocks |\n|---|---|---|\n"
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source.model) and not os.path.exists(source.model)
    evidence = "Nobody has validated them: `validation` is empty."
    if vectors.validation is not None:
        evidence = _evidence(vectors.validation)
    told = {name: _cell(value) for name, value in asdict(source).items() if isinstance(value, str)}
    told["revision"] = _cell(source.revision or "unknown")
    return _CARD.format(
        **told,
        base_model=f"base_model: {json.dumps(source.model)}\n" if on_hub else "",
        emotions=", ".join(map(_cell, vectors.emotions)),
        n_emotions=len(vectors.emotions),
        layers=", ".join(map(str, vectors.layers)),
        n_layers=len(vectors.layers),
        width=vectors.width,
        counts=", ".join(f"{_cell(name)} {n}" for name, n in source.counts.items()) or "unknown",
        versions=", ".join(f"{_cell(name)} {_cell(version)}" for name, version in source.versions.items()),
        format=FORMAT,
        fingerprint=vectors.fingerprint(),
        separations=title + "\n".join(rows),
        repo_id=repo_id,
        file=FILE,
        validation=evidence,
    )


def _evidence(validation: dict[str, Any]) -> str:
    rows = [
        f"| {_cell(emotion)} | {', '.join(map(str, one['layers'])) or 'none'} | {_cell(one['why'])} |"
        for emotion, one in validation["verdict"].items()
    ]
    head = "The blocks at which each direction may be trusted; `emoreg.validation.page(vectors)` has all of it.\n\n"
    return head + "| emotion | blocks | why |\n|---|---|---|\n" + "\n".join(rows)


def _cell(text: str) -> str:
    """Text that a cell of a table can hold."""
    return re.sub(r"[|`\s<>]+", " ", text).strip() or "unknown"
