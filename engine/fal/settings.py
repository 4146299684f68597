"""One frozen object of settings: arguments first, then LIGHTFILL_* variables, then defaults."""

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args, get_type_hints

from ..errors import InvalidInput
from ..images import MAX_PIXELS, PILLOW_MAX_PIXELS
from .site_url import site_url

PREFIX = "LIGHTFILL_"
DAY_S = 86_400.0
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

logger = logging.getLogger(__name__)

_MAY_BE_ZERO = ("max_redirects", "port", "workers", "shutdown_grace_s")
_PASSWORD = re.compile(r"(?<=://)([^:@/]*:).*(?=@)")
_PASSWORD_PARAMETER = re.compile(r"([?&]\w*password=)[^&]*", re.IGNORECASE)


class Shown(NamedTuple):
    """One setting as `lightfill doctor` prints it."""

    variable: str
    value: str
    changed: bool


def _user_data() -> Path:
    from platformdirs import user_data_path

    return user_data_path("lightfill", appauthor=False)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the queue, the files and the endpoint behave; each field is LIGHTFILL_<NAME> outside.

    data_dir: stored files and, unless database_url says otherwise, the jobs.
    database_url: SQLAlchemy's; None is a SQLite file in data_dir (`Settings.database`).
    bundle, device, precision, threads, low_memory: what `Inpainter.open` is given.
    public_url: where a server offers stored files; None gives file:// URLs, for this machine.
    max_queue_length: jobs that may wait; the next one is refused with 429. None: no limit.
    job_retention_s, file_retention_s: how long finished jobs and stored files are kept.
    lease_s, heartbeat_s: a job whose worker was silent for lease_s runs again elsewhere.
    max_download_bytes, download_timeout_s, max_redirects: limits of one fetched URL or data URI,
        connecting and redirects included; fal's are 50 MiB, 30 s and 5.
    max_upload_bytes: limit of one stored file.
    max_pixels: larger pictures are refused from their header.
    allow_private_addresses: whether callers' URLs may reach this machine and its network.

    Of `lightfill.fal` only:
    base_url: a lightfill server that answers, in place of this process.

    Of `lightfill serve` only:
    host, port: where it listens; port 0 is any that is free.
    workers: jobs this process runs at a time; 0 leaves them to other processes.
    authentication: whether callers need a key of `lightfill keys`; None: unless host, and
        public_url if there is one, are loopback.
    private_files: whether stored files need their owner's key, too, and not their URL alone.
    public_metrics: whether /metrics needs no key where everything else does.
    cors_origins: origins, separated by commas, whose pages may call; "*": all; None: all if callers
        need keys, else none but the server's own.
    max_request_bytes: limit of a request's JSON.
    requests_per_minute: limit of submits and uploads by one key, or one address without keys.
    shutdown_grace_s: how long a running job may take when the server stops.
    log_level: what it says on stderr: critical, error, warning, info (each request) or debug.
    """

    data_dir: Path = field(default_factory=_user_data)
    database_url: str | None = field(default=None, repr=False)  # it may hold a password
    bundle: Path | None = None
    device: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    low_memory: bool | None = None
    public_url: str | None = None
    max_queue_length: int | None = 1000
    job_retention_s: float = 7 * DAY_S
    file_retention_s: float = 7 * DAY_S
    lease_s: float = 30.0
    heartbeat_s: float = 5.0
    max_download_bytes: int = 50 << 20
    download_timeout_s: float = 30.0
    max_redirects: int = 5
    max_upload_bytes: int = 1 << 30
    max_pixels: int = MAX_PIXELS
    allow_private_addresses: bool = False
    base_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    workers: int = 1
    authentication: bool | None = None
    private_files: bool = False
    public_metrics: bool = False
    cors_origins: str | None = None
    max_request_bytes: int = 160 << 20
    requests_per_minute: int | None = None
    shutdown_grace_s: float = 30.0
    log_level: str = "warning"

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            kinds = _kinds(item.name)
            if isinstance(value, str | Path) and Path in kinds:
                value = _absolute(item.name, Path(value))
            if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
                value = float(value)
            if type(value) not in kinds and not (isinstance(value, Path) and Path in kinds):
                raise _wrong(item.name, value, f"must be {_words(kinds)}")
            object.__setattr__(self, item.name, value)
            if type(value) in (int, float):
                self._check_number(item.name, value)
        self._check_together()

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **overrides: Any
    ) -> Self:
        """LIGHTFILL_* of `environment` (os.environ), overridden by arguments that are not None.

        Raises InvalidInput naming the variable. Unknown LIGHTFILL_* names are logged: a misspelt
        limit would otherwise be no limit.
        """
        environment = os.environ if environment is None else environment
        names = [item.name for item in fields(cls)]
        given = {
            name: _parsed(name, environment[_variable(name)])
            for name in names
            if environment.get(_variable(name), "").strip()
        }
        for unknown in sorted(set(environment) - {_variable(name) for name in names}):
            if unknown.startswith(PREFIX):
                near = difflib.get_close_matches(unknown, map(_variable, names), 1)
                hint = f"did you mean {near[0]}?" if near else "`lightfill doctor` lists them"
                logger.warning("%s is no setting; %s", unknown, hint)
        given.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**given)

    @property
    def database(self) -> str:
        """The URL of the job database."""
        if self.database_url is not None:
            return self.database_url
        from sqlalchemy import URL

        file = str(self.data_dir / "queue.sqlite3")  # a URL has to quote some of its characters
        return URL.create("sqlite", database=file).render_as_string()

    @property
    def files_dir(self) -> Path:
        """The directory of stored files."""
        return self.data_dir / "files"

    def shown(self) -> Iterator[Shown]:
        """Every setting for `lightfill doctor`; passwords in URLs are starred out."""
        defaults = type(self)()
        for item in fields(self):
            value = getattr(self, item.name)
            text = without_secrets(str(value)) if item.name.endswith("_url") else str(value)
            changed = value != getattr(defaults, item.name)
            yield Shown(_variable(item.name), text, changed)

    def _check_number(self, name: str, value: float) -> None:
        lowest = 0 if name in _MAY_BE_ZERO else 1 if type(value) is int else 0.001
        if not isfinite(value) or value < lowest:
            raise _wrong(name, value, f"must be {lowest} or more")
        if name == "port" and value > 65_535:
            raise _wrong(name, value, "must be at most 65535")

    def _check_together(self) -> None:
        if self.max_pixels > PILLOW_MAX_PIXELS:
            raise _wrong("max_pixels", self.max_pixels, f"must be at most {PILLOW_MAX_PIXELS}")
        if self.heartbeat_s > self.lease_s / 2:
            reason = f"must be at most half of lease_s ({self.lease_s:g})"
            raise _wrong("heartbeat_s", self.heartbeat_s, reason)
        if self.log_level not in LOG_LEVELS:
            raise _wrong("log_level", self.log_level, f"must be one of {', '.join(LOG_LEVELS)}")
        for name in ("public_url", "base_url"):
            if (value := getattr(self, name)) is not None:
                try:
                    object.__setattr__(self, name, site_url(value))
                except ValueError:
                    raise _wrong(name, value, "must be like https://example.org") from None


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _kinds(name: str) -> tuple[type, ...]:
    hint = get_type_hints(Settings)[name]
    return get_args(hint) or (hint,)


def _words(kinds: tuple[type, ...]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words |= {type(None): "none"}
    return " or ".join(words.get(kind, "a path") for kind in kinds)


def without_secrets(url: str) -> str:
    """The URL with its password starred out, also one given as a parameter."""
    return _PASSWORD_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1***", url))


def _boolean(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "on": True}
    values |= {"0": False, "false": False, "no": False, "off": False}
    return values[text.lower()]


_PARSERS: Mapping[type, Callable[[str], Any]] = {
    bool: _boolean,
    int: int,
    float: float,
    str: str,
    Path: Path,
}


def _parsed(name: str, text: str) -> Any:
    kinds = _kinds(name)
    if type(None) in kinds and text.strip().lower() == "none":
        return None
    try:
        return _PARSERS[kinds[0]](text.strip())
    except (ValueError, KeyError):
        raise _wrong(name, text, f"must be {_words(kinds)}") from None


def _absolute(name: str, path: Path) -> Path:
    """The path as it is now: programs may change their working directory later."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise _wrong(name, str(path), "must be a path (nobody of that name has a home)") from None


def _wrong(name: str, value: Any, reason: str) -> InvalidInput:
    return InvalidInput(_variable(name), f"{reason}, got {value!r}; correct it, or the argument")
