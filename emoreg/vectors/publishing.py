"""Vectors for others: a model card, the Hugging Face Hub, and Weights & Biases artifacts. The file is `save`'s own."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, HTTPError

from emoreg import checks
from emoreg.vectors.emotion_vectors import FORMAT, EmotionVectors

if TYPE_CHECKING:
    import wandb

FILE = "vectors.safetensors"
"""What the file is called in a repository or an artifact."""

ARTIFACT_TYPE = "emotion-vectors"

_HUB_ERRORS = (OSError, RuntimeError, HTTPError, HFValidationError)

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
from emoreg.vectors.publishing import pull_from_hub

vectors = pull_from_hub("{repo_id}")
vectors.check(model)  # refuses a model that they do not belong to
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
        f"| {_plain(emotion)} | {100 * low:.1f} | {100 * high:.1f} |"
        for emotion, low, high in zip(
            vectors.emotions, ratio_LK.amin(0).tolist(), ratio_LK.amax(0).tolist(), strict=True
        )
    ]
    title = "| emotion | separation, % of the residual norm: least | and most of the blocks |\n|---|---|---|\n"
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source.model) and not os.path.exists(source.model)
    evidence = "Nobody has validated them: `validation` is empty."
    if vectors.validation is not None:
        evidence = _evidence(vectors.validation)
    told = {name: _plain(value) for name, value in asdict(source).items() if isinstance(value, str)}
    told["revision"] = _plain(source.revision or "unknown")
    return _CARD.format(
        **told,
        base_model=f"base_model: {json.dumps(source.model)}\n" if on_hub else "",
        emotions=", ".join(map(_plain, vectors.emotions)),
        n_emotions=len(vectors.emotions),
        layers=", ".join(map(str, vectors.layers)),
        n_layers=len(vectors.layers),
        width=vectors.width,
        counts=", ".join(f"{_plain(name)} {n}" for name, n in source.counts.items()) or "unknown",
        versions=", ".join(f"{_plain(name)} {_plain(version)}" for name, version in source.versions.items()),
        format=FORMAT,
        fingerprint=vectors.fingerprint(),
        separations=title + "\n".join(rows),
        repo_id=repo_id,
        file=FILE,
        validation=evidence,
    )


def _evidence(validation: dict[str, Any]) -> str:
    rows = [
        f"| {_plain(emotion)} | {', '.join(map(str, one['layers'])) or 'none'} | {_plain(one['why'])} |"
        for emotion, one in validation["verdict"].items()
    ]
    head = "The blocks at which each direction may be trusted; `emoreg.validation.page(vectors)` has all of it.\n\n"
    return head + "| emotion | blocks | why |\n|---|---|---|\n" + "\n".join(rows)


def push_to_hub(
    vectors: EmotionVectors,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Emotion vectors",
) -> str:
    """Upload vectors and their card to a model repository, in one commit; returns the commit's address.

    Args:
        vectors: what to upload.
        repo_id: ``user/name`` or ``organisation/name``; made if there is none.
        private: whether a new repository is; by default as the account has it.
        revision: the branch, ``main`` by default.
        token: of the Hub; by default the one that ``hf auth login`` has stored.
        message: of the commit.

    Raises:
        ValueError: for an id that cannot be, no connection, or no right to write there.
    """
    checks.text("repo_id", repo_id, "the name of a repository, as user/name")
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            path = vectors.save(Path(folder) / FILE)
            card = model_card(vectors, repo_id).encode()
            done = api.create_commit(
                repo_id,
                [CommitOperationAdd("README.md", card), CommitOperationAdd(FILE, path)],
                commit_message=message,
                revision=revision,
            )
    except _HUB_ERRORS as error:
        raise ValueError(
            f"cannot push to {repo_id} ({_first_line(error)}); check the name, the connection and `hf auth login`"
        ) from error
    return done.commit_url


def pull_from_hub(repo_id: str, revision: str | None = None, *, token: str | None = None) -> EmotionVectors:
    """Vectors from a repository that `push_to_hub` wrote, out of the local cache if they are there.

    Raises:
        ValueError: if there is no such repository, revision or file, no connection, or the file is not sound.
    """
    checks.text("repo_id", repo_id, "the name of a repository, as user/name")
    try:
        path = hf_hub_download(repo_id, FILE, revision=revision, token=token)
    except _HUB_ERRORS as error:
        where = f"{repo_id} at {revision or 'main'}"
        raise ValueError(
            f"cannot get {FILE} of {where} ({_first_line(error)}); check the names, the connection and `hf auth login`"
        ) from error
    return EmotionVectors.load(path)


def log_artifact(
    vectors: EmotionVectors, run: "wandb.Run | None" = None, name: str = "emotion-vectors"
) -> "wandb.Artifact":
    """Log vectors and their card to a W&B run as an artifact, with their provenance as its metadata.

    Raises:
        ValueError: if no run is given and none is active, or for a name that W&B does not take.
    """
    import wandb

    run = wandb.run if run is None else run
    if run is None:
        raise ValueError("no W&B run is active; call wandb.init first, or pass run=")
    metadata: dict[str, Any] = asdict(vectors.provenance) | {
        "format": FORMAT,
        "emotions": list(vectors.emotions),
        "layers": list(vectors.layers),
        "width": vectors.width,
        "fingerprint": vectors.fingerprint(),
    }
    description = f"Emotion vectors of {vectors.provenance.model}"
    artifact = wandb.Artifact(name, type=ARTIFACT_TYPE, description=description, metadata=metadata)
    with TemporaryDirectory() as folder:  # W&B keeps a copy of its own
        artifact.add_file(str(vectors.save(Path(folder) / FILE)), name=FILE)
        with artifact.new_file("README.md") as card:
            card.write(model_card(vectors))
    return run.log_artifact(artifact)


def load_artifact(artifact: "str | wandb.Artifact", run: "wandb.Run | None" = None) -> EmotionVectors:
    """Vectors of an artifact that `log_artifact` made.

    Args:
        artifact: itself, or its name with its version, as ``entity/project/emotion-vectors:latest``.
        run: which run uses it, by default the active one; without any, nothing is recorded.

    Raises:
        ValueError: if there is no such artifact, no connection, or the file is not there or not sound.
    """
    import wandb

    run = wandb.run if run is None else run
    try:
        if isinstance(artifact, str):
            artifact = wandb.Api().artifact(artifact) if run is None else run.use_artifact(artifact)
        folder = artifact.download()
    except (wandb.Error, OSError, TypeError) as error:  # TypeError: a run that is offline
        raise ValueError(
            f"cannot get the artifact ({_first_line(error)}); check its name and the connection"
        ) from error
    return EmotionVectors.load(Path(folder) / FILE)


def _plain(text: str) -> str:
    """Text that a cell of a table can hold."""
    return re.sub(r"[|`\s<>]+", " ", text).strip() or "unknown"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
