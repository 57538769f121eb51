"""Vectors as artifacts of Weights & Biases: the file, its card, and the provenance as metadata."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from emoreg import checks
from emoreg.vectors.card import FILE, model_card
from emoreg.vectors.emotion_vectors import EmotionVectors
from emoreg.vectors.storage import FORMAT

if TYPE_CHECKING:
    import wandb

ARTIFACT_TYPE = "emotion-vectors"


def push_artifact(vectors: EmotionVectors, name: str) -> str:
    """Log vectors to a W&B run of their own; returns the address of the run, or its folder if it is offline.

    Args:
        vectors: what to log.
        name: of the artifact, as ``name``, ``project/name`` or ``entity/project/name``.

    Raises:
        ValueError: for a name that W&B does not take, no connection, or nobody logged in.
    """
    import wandb

    checks.text("name", name, "the name of an artifact, as project/name")
    *where, last = name.split("/")
    entity, project = ([None, None, *where])[-2:]
    if len(where) > 2 or not all((*where, last)):
        raise ValueError(f"an artifact is called name, project/name or entity/project/name, got {name!r}")
    try:
        with wandb.init(entity=entity, project=project, job_type=ARTIFACT_TYPE) as run:
            log_artifact(vectors, run, last)
            return run.url or run.dir
    except wandb.Error as error:
        raise ValueError(
            f"cannot log the artifact ({checks.first_line(error)}); check the connection and `wandb login`"
        ) from error


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
            f"cannot get the artifact ({checks.first_line(error)}); check its name and the connection"
        ) from error
    return EmotionVectors.load(Path(folder) / FILE)
