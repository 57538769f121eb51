"""Vectors on the Hugging Face Hub: a repository holds the file and its card."""

from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, HTTPError

from emoreg import checks
from emoreg.vectors.card import FILE, model_card
from emoreg.vectors.emotion_vectors import EmotionVectors

_HUB_ERRORS = (OSError, RuntimeError, HTTPError, HFValidationError)


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
            f"cannot push to {repo_id} ({checks.first_line(error)}); check the name, the connection and `hf auth login`"
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
            f"cannot get {FILE} of {where} ({checks.first_line(error)}); check the names, the connection and "
            "`hf auth login`"
        ) from error
    return EmotionVectors.load(path)
