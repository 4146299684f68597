"""A model on the hub: one commit is looked up, its files are fetched, failures are told apart.

`huggingface_hub` does the work and owns its cache: a file appears there whole or not at all, a
connection that breaks is resumed until it has broken six times without progress, and bars are drawn
on terminals only. It is imported on first use, as that takes half a second.
"""

import contextlib
import errno
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from ..engine.errors import ExportError

_ANSWER_SECONDS = 30.0  # by default the hub's index may keep us waiting for ever
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_UNREACHABLE = (
    "{failed}; check the network and run again, pass --local-files-only if the files were fetched "
    "before, or copy the model's folder here and pass its path"
)
_EXPLANATIONS = {  # the first that fits; the order matters, as most derive from one another
    "GatedRepoError": (
        "{name} is gated and not open to you yet; accept its licence on the model's page, then run "
        "`hf auth login` or set HF_TOKEN"
    ),
    "RepositoryNotFoundError": (
        "the hub shows no model {name} to you, and no local path has that name; check the "
        "spelling, or run `hf auth login` or set HF_TOKEN if the model is private"
    ),
    "RevisionNotFoundError": (
        "{name} has no revision {revision!r}; pass a branch, tag or commit of that model"
    ),
    "EntryNotFoundError": "{failed}; pass another revision, as the hub has lost this file",
    "HfHubHTTPError": "{answered}",
    "HTTPError": _UNREACHABLE,  # httpx's: no answer, or half of one
    "ConnectionError": _UNREACHABLE,
    "PermissionError": "{failed}; set HF_HOME to a folder that you can write to",
    "Exception": "{failed}; run again, and check HF_ENDPOINT and HF_HOME if it fails again",
}


@dataclass(frozen=True)
class HubRepository:
    """The model `name` ("owner/name") at the commit `revision`, whatever its branches do meanwhile.

    `snapshot` is where the cache keeps this commit if only the cache may be used, else None.
    """

    name: str
    revision: str
    listing: frozenset[str] = field(repr=False)
    snapshot: Path | None = None

    @classmethod
    def open(cls, name: str, revision: str = "main", *, local_files_only: bool = False) -> Self:
        """Look up the commit that `revision` (a branch, tag or commit) stands for now.

        With `local_files_only`, or HF_HUB_OFFLINE=1, the cache answers and nothing is requested.
        """
        with _explained(f"looking up {name}", name, revision):
            from huggingface_hub import is_offline_mode

            if local_files_only or is_offline_mode():
                commit, folder = _cached(name, revision)
                paths = (path for path in folder.rglob("*") if path.is_file())
                listing = frozenset(path.relative_to(folder).as_posix() for path in paths)
                return cls(name, commit, listing, folder)
            return cls(name, *_look_up(name, revision))

    def files(self) -> frozenset[str]:
        """Every file of the commit; without the network, every file that the cache has of it."""
        return self.listing

    def fetch(self, name: str) -> Path:
        """Where the file lies in the cache, downloaded if it is not there yet."""
        where = f"{self.name} at commit {self.revision[:7]}"
        if name not in self.listing:
            if self.snapshot:
                raise missing_file(f"the cached {where}", name, self.listing, _not_cached())
            raise missing_file(where, name, self.listing, "pass a model that has it")
        if self.snapshot:
            return self.snapshot / name
        with _explained(f"fetching {name} of {self.name}", self.name, self.revision):
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(self.name, name, revision=self.revision))


def missing_file(where: str, name: str, files: Collection[str], advice: str) -> ExportError:
    """The error that `where`, which holds `files`, has no file `name`."""
    near = get_close_matches(name, files, n=3, cutoff=0.5)
    has = f"it has {', '.join(near)}" if near else f"nor one like it among {len(files)}"
    return ExportError(f"{where} has no file {name!r}, {has}; {advice}")


def _look_up(name: str, revision: str) -> tuple[str, frozenset[str]]:
    from huggingface_hub import HfApi

    api = HfApi()
    info = api.model_info(name, revision=revision, timeout=_ANSWER_SECONDS)
    # Notes in the cache what the branch stands for, so that it resolves without the network too.
    commit = api.resolve_revision(name, revision=revision).resolved
    if commit != info.sha:  # the branch has moved between the two
        info = api.model_info(name, revision=commit, timeout=_ANSWER_SECONDS)
    return commit, frozenset(file.rfilename for file in info.siblings or ())


def _cached(name: str, revision: str) -> tuple[str, Path]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    commit = HfApi().resolve_revision(name, revision=revision, local_files_only=True).resolved
    try:
        folder = snapshot_download(name, revision=commit, local_files_only=True)
    except IncompleteSnapshotError as error:  # as it should be: not every file is of use to us
        folder = error.snapshot_path
    return commit, Path(folder)


@contextlib.contextmanager
def _explained(doing: str, name: str, revision: str) -> Iterator[None]:
    """Whatever the hub's library and those below it raise, an `ExportError` leaves."""
    try:
        yield
    except ImportError as error:
        raise ExportError(f"{error}; pip install 'lightfill[export]'") from error
    except Exception as error:
        raise ExportError(_explanation(error, doing, name, revision)) from error


def _explanation(error: BaseException, doing: str, name: str, revision: str) -> str:
    # By name: some of these classes belong to httpx or httpx2, as the hub's release has it.
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "LocalEntryNotFoundError" in kinds or "RevisionResolutionError" in kinds:
        if error.__cause__:  # the reason why it looked in the cache
            return _explanation(error.__cause__, doing, name, revision)
        return f"{doing} failed, it is not in the local cache; {_not_cached()}"
    if (isinstance(error, OSError) and error.errno in _NO_SPACE) or "No space left" in str(error):
        return f"{doing} failed, {_free_space()}; make room, or set HF_HOME to a larger disk"
    status = getattr(getattr(error, "response", None), "status_code", 0)
    text = next(text for kind, text in _EXPLANATIONS.items() if kind in kinds)
    return text.format(
        name=name,
        revision=revision,
        failed=f"{doing} failed ({kinds[0]}: {' '.join(str(error).split())[:300]})",
        answered=f"{doing} failed, the hub answered {status}; {_advice(status)}",
    )


def _advice(status: int) -> str:
    """What to do about an HTTP status that has no exception of its own."""
    if status == 401:
        return "your token is not valid: run `hf auth login`, or unset HF_TOKEN"
    if status == 403:
        return "use a token that may read this model: run `hf auth login`, or set HF_TOKEN"
    if status == 429:
        return "wait some minutes and run again; `hf auth login` raises the limit"
    if status >= 500:
        return "run again later, or pass --local-files-only if the files were fetched before"
    return "check HF_ENDPOINT and the proxy, then run again"


def _not_cached() -> str:
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        return "unset HF_HUB_OFFLINE and run again with the network"
    return "run again without --local-files-only"


def _free_space() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    return f"the disk of {cache} is full, {shutil.disk_usage(existing).free:,} bytes are free"
