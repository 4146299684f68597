"""Textual inversions on the model hub: the one safetensors file that a hub id stands for.

`huggingface_hub` does the work, resumes broken downloads and keeps what it fetched; it is optional
and imported on first use. With HF_HUB_OFFLINE=1 its cache answers and nothing is requested.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import FileDownloadError, FileTooLarge, InvalidInput
from ..textual_inversion import MAX_BYTES

_NAME = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"(?P<repository>{_NAME}/{_NAME})(?:/(?P<file>[^\\:]+))?", re.ASCII)
_USUAL_FILES = ("learned_embeds.safetensors", "embeddings.safetensors", "embeddings.pti")
"""diffusers' name, the pivotal trainer's and cog-sdxl's, whose .pti is a safetensors file."""
_ANSWER_SECONDS = 30.0
_BRANCH = "main"
_INSTALL = "hub ids need huggingface_hub: `pip install 'lightfill[hub]'`, or pass a URL"
_EXPLANATIONS = {  # the first that fits; the order matters, as most derive from one another
    "HFValidationError": "is no hub id; pass owner/name, or owner/name/file.safetensors",
    "GatedRepoError": "is gated; accept its licence on its page, or use another embedding",
    "RepositoryNotFoundError": "is no model the hub shows; check the spelling, or pass a URL",
    "LocalEntryNotFoundError": "is not in the local cache; unset HF_HUB_OFFLINE, or pass a file",
    "EntryNotFoundError": "has lost that file; check the model's page",
}
_UNREACHABLE = "cannot be fetched from the hub ({reason}); check the network and try again"


def is_hub_id(text: str) -> bool:
    """Whether `text` reads as owner/name or owner/name/file."""
    return _HUB_ID.fullmatch(text) is not None


def fetch_embedding(hub_id: str, field: str, *, token: bool | None = None) -> Path:
    """Where the file of "owner/name" or "owner/name/file.safetensors" lies, downloaded if need be.

    Without a file named, the repository's only safetensors file is meant, or the one with a usual
    name (`learned_embeds`, `embeddings`, `*_emb`). token: None uses the machine's own, False none,
    which is what callers from outside get: another's private models are none of theirs.

    Raises FileDownloadError or FileTooLarge naming `field`.
    """
    match = _HUB_ID.fullmatch(hub_id)
    if match is None:
        raise _failed(field, hub_id, _EXPLANATIONS["HFValidationError"])
    repository, wanted = match["repository"], match["file"]
    with _explained(hub_id, field):
        from huggingface_hub import hf_hub_download, is_offline_mode

        if is_offline_mode():
            folder = _cached(repository)
            name = _choose(wanted, _files_in(folder), hub_id, field)
            return folder / name
        sizes = _look_up(repository, token)
        name = _choose(wanted, sizes, hub_id, field)
        if (sizes[name] or 0) > MAX_BYTES:
            raise FileTooLarge(
                field,
                f"{name} of {repository} is larger than {MAX_BYTES >> 20} MB: no embedding; "
                "name another file as owner/name/file.safetensors",
            )
        return Path(hf_hub_download(repository, name, revision=_BRANCH, token=token))


def _look_up(repository: str, token: bool | None) -> dict[str, int | None]:
    """The files of the newest commit with their sizes in bytes, where the hub tells."""
    from huggingface_hub import HfApi

    info = HfApi(token=token).model_info(
        repository, revision=_BRANCH, timeout=_ANSWER_SECONDS, files_metadata=True
    )
    return {file.rfilename: file.size for file in info.siblings or ()}


def _cached(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except Exception as error:
        # Newer releases mind that not every file is there: as it should be, one is enough.
        folder = getattr(error, "snapshot_path", None)
        if folder is None:
            raise
        return Path(folder)


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _choose(wanted: str | None, files: Collection[str], hub_id: str, field: str) -> str:
    """The file that is meant, of a repository's `files`; pickled ones are never candidates."""
    candidates = sorted(file for file in files if file.endswith((".safetensors", ".pti")))
    if wanted is not None:
        if wanted in candidates:
            return wanted
        has = ", ".join(candidates[:9]) or "none"
        raise _failed(field, hub_id, f"is no safetensors file there; name one of those: {has}")
    if not candidates:
        raise _failed(field, hub_id, "has no safetensors file (pickled ones are never opened)")
    if len(candidates) == 1:
        return candidates[0]
    usual = [file for file in candidates if _is_usual(file)]
    if len(usual) == 1:
        return usual[0]
    raise _failed(
        field, hub_id, f"has several: {', '.join(candidates[:9])}; name one as owner/name/file"
    )


def _is_usual(file: str) -> bool:
    path = PurePosixPath(file)
    return path.name in _USUAL_FILES or path.stem.endswith(("_emb", "_embeddings"))


@contextmanager
def _explained(hub_id: str, field: str) -> Iterator[None]:
    """Whatever the hub's library and those below it raise, a FileDownloadError leaves."""
    try:
        yield
    except InvalidInput:
        raise
    except ImportError as error:
        raise FileDownloadError(field, f"{hub_id}: {_INSTALL}") from error
    except Exception as error:
        raise _failed(field, hub_id, _explanation(error)) from error


def _explanation(error: BaseException) -> str:
    # By name: some of these classes belong to httpx or httpx2, as the hub's release has it.
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "LocalEntryNotFoundError" in kinds and error.__cause__ is not None:
        return _explanation(error.__cause__)  # the reason why it looked in the cache
    for kind, text in _EXPLANATIONS.items():
        if kind in kinds:
            return text
    status: Any = getattr(getattr(error, "response", None), "status_code", None)
    return _UNREACHABLE.format(reason=f"it answered {status}" if status else kinds[0])


def _failed(field: str, hub_id: str, explanation: str) -> FileDownloadError:
    return FileDownloadError(field, f"{hub_id} {explanation}")
