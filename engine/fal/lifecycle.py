"""What a caller may say about an upload: where it goes, how long it lives, who may read it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ObjectExpiration = Literal["never", "immediate", "1h", "1d", "7d", "30d", "1y"] | int
StorageACLDecision = Literal["hide", "forbid", "allow"]
UploadRepositoryId = Literal["fal_v3", "cdn", "fal"]

_SECONDS: dict[str, int | None] = {
    "never": None,
    "immediate": 60,  # as fal_client: its storage reads 0 as "keep"
    "1h": 3600,
    "1d": 86_400,
    "7d": 604_800,
    "30d": 2_592_000,
    "1y": 31_536_000,
}


@dataclass(frozen=True)
class StorageACLRule:
    """What one user may do with an uploaded file."""

    user: str
    decision: StorageACLDecision


@dataclass(frozen=True)
class StorageACL:
    """Who may read an uploaded file."""

    default: StorageACLDecision | None = None
    rules: list[StorageACLRule] | None = None


@dataclass(frozen=True)
class StorageSettings:
    """How long an uploaded file is kept, and who may read it.

    expires_in: "immediate" is a minute; "never" and None leave it to the storage's own retention.
    """

    expires_in: ObjectExpiration | None = None
    initial_acl: StorageACL | None = None

    def __post_init__(self) -> None:
        self.seconds()

    def seconds(self) -> int | None:
        """`expires_in` in seconds, None for the storage's retention; ValueError if it is wrong."""
        given = self.expires_in
        if isinstance(given, bool):
            raise ValueError(  # noqa: TRY004, as fal_client
                f"expires_in is a boolean; write seconds or one of {_names()}"
            )
        if isinstance(given, int):
            if given <= 0:
                raise ValueError(f"expires_in is {given}; write more than 0 seconds")
            return given
        if given is None:
            return None
        if given not in _SECONDS:
            raise ValueError(f"expires_in is {given!r}; write seconds or one of {_names()}")
        return _SECONDS[given]


def check_repositories(
    repository: UploadRepositoryId | None,
    fallback: UploadRepositoryId | Sequence[UploadRepositoryId] | None,
) -> None:
    """Refuse names fal_client refuses. lightfill has one storage, so the choice has no effect."""
    others = [fallback] if isinstance(fallback, str) else list(fallback or ())
    for name in (repository, *others):
        if name == "cdn":
            message = "`cdn` upload repository is deprecated, falling back to `fal_v3`."
            warnings.warn(message, DeprecationWarning, stacklevel=5)
        elif name not in {None, "fal_v3", "fal"}:
            raise ValueError(f"Unsupported upload repository '{name}'")


def _names() -> str:
    return ", ".join(_SECONDS)
