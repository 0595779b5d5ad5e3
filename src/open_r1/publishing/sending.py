"""A publication to the Hub: the repository made if it is not there, and everything in one commit.

All of it is huggingface_hub's doing; here it is only made sure that nothing of others is written over, and that what
goes wrong is told in one line. The token is in none of them.
"""

import tempfile
from pathlib import Path
from typing import Any

from open_r1.publishing.card import MARKER
from open_r1.publishing.publication import CARD_FILE, Publication
from open_r1.recipe import RecipeError

DATASET = "dataset"
CARD_REFUSED = "Invalid metadata in README.md"  # how huggingface_hub says it
FOLDERS = ("kept/", "prompts/", "completions/")  # where all that is published lies, the card and the scores apart


def send(publication: Publication) -> str:
    """The address of the commit. What an earlier push has left, and this one has not, is deleted in it.

    Raises RecipeError if the Hub cannot be asked, or does not let us write there, or if something else is there.
    """
    from httpx import HTTPError
    from huggingface_hub import get_token

    repo_id, token = publication.repo_id, get_token()
    if token is None:
        raise RecipeError(f"TO {repo_id}: there is no token for the Hub; run `hf auth login`, or set HF_TOKEN")
    try:
        return _send(publication, token)
    except RecipeError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: a large file did not go through
        raise RecipeError(f"TO {repo_id}: {_reason(error).replace(token, '…')}") from None


def _send(publication: Publication, token: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, repo_id = HfApi(token=token), publication.repo_id
    api.create_repo(repo_id, repo_type=DATASET, private=publication.private or None, exist_ok=True)
    info = api.dataset_info(repo_id)
    if publication.private and not info.private:  # it was there before
        raise RecipeError(f"TO {repo_id}: it is there, and public; make it private in its settings, or name another")
    there = [file.rfilename for file in info.siblings or []]
    if CARD_FILE in there:
        _require_ours(api, publication)
    stale = [name for name in there if name.startswith(FOLDERS) and name not in publication.files]
    commit = api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(name, content) for name, content in publication.files.items()),
            *(CommitOperationDelete(name) for name in stale),
        ],
        commit_message=publication.message,
        repo_type=DATASET,
        parent_commit=info.sha,
    )
    return commit.commit_url


def _require_ours(api: Any, publication: Publication) -> None:
    """Raises RecipeError if the card that is there was not written here, of a run of the same kind."""
    with tempfile.TemporaryDirectory() as scratch:
        file = api.hf_hub_download(publication.repo_id, CARD_FILE, repo_type=DATASET, local_dir=scratch)
        card = Path(file).read_text(encoding="utf-8")
    if MARKER.format(publication.kind) not in card:
        raise RecipeError(
            f"TO {publication.repo_id}: something else is there (its {CARD_FILE} is not of published "
            f"{publication.kind}); name another repository, or delete that one"
        )


def _reason(error: Exception) -> str:
    """What went wrong, and what to do about it, in one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(str(getattr(error, "server_message", None) or (lines or [type(error).__name__])[0]).split())
    if status == 401:
        return "the Hub does not take the token; run `hf auth login` with one that may write"
    if status == 403:
        return f"the token may not write there ({said}); take one with the role `write`, or a name that is yours"
    if status == 404:
        return "the name is taken by something that is no data set, or that you cannot see; name another"
    if status == 412:
        return "somebody else has written there in the meantime; look at it, and push again"
    if status is None and lines and lines[0].startswith(CARD_REFUSED):
        return f"the Hub does not take the card ({' '.join(lines[1:])}); see --license"
    return f"the Hub could not be written to ({said}); push again, what has arrived is not sent twice"
