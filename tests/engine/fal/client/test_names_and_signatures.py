"""lightfill.fal against the real fal_client, name by name and parameter by parameter.

Every difference must stand, with its reason, in the table of docs/fal-python.md, and every row of
the table must be a difference.
"""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import fal_client
import pytest

import lightfill.fal

PAGE = Path(__file__).parents[4] / "docs/fal-python.md"
ROW = re.compile(r"^\| `([\w.]+)` \| (.{20,}) \|$", re.MULTILINE)


def public(thing: Any) -> dict[str, Any]:
    """The public attributes of a module or class by name, a module's `__all__` included."""
    names = {name for name in dir(thing) if not name.startswith("_")}
    names |= set(getattr(thing, "__all__", ()))
    return {name: inspect.getattr_static(thing, name) for name in names}


def parameters(thing: Any) -> list[tuple[str, Any, Any]] | None:
    """Names, kinds and defaults; None for what cannot be called."""
    if isinstance(thing, classmethod | staticmethod):
        thing = thing.__func__
    if not callable(thing):
        return None
    try:
        found = inspect.signature(thing).parameters.values()
    except ValueError:
        return None
    return [(each.name, each.kind, each.default) for each in found]


def is_asynchronous(thing: Any) -> bool:
    return inspect.iscoroutinefunction(thing) or inspect.isasyncgenfunction(thing)


def differences(real: Any, ours: Any, prefix: str = "") -> set[str]:
    """Dotted names of what is missing in `ours`, or is called in another way."""
    found = set()
    for name, theirs in public(real).items():
        path = prefix + name
        if not hasattr(ours, name):
            found.add(path)
            continue
        mine = inspect.getattr_static(ours, name)
        if parameters(theirs) != parameters(mine) or is_asynchronous(theirs) != is_asynchronous(
            mine
        ):
            found.add(path)
        if inspect.isclass(theirs) and theirs.__module__.startswith("fal_client"):
            found |= differences(theirs, mine, f"{path}.")
            found |= {f"{path}.{field}" for field in fields(theirs) - fields(mine)}
    return found


def fields(kind: type) -> set[tuple[str, Any]]:
    """A dataclass's fields that callers see, with whether they are shown by repr."""
    if not dataclasses.is_dataclass(kind):
        return set()
    return {(each.name, each.repr) for each in dataclasses.fields(kind)}


def test_every_difference_is_stated_with_its_reason_and_every_stated_one_exists() -> None:
    stated = dict(ROW.findall(PAGE.read_text(encoding="utf-8")))
    assert differences(fal_client, lightfill.fal) == set(stated)


def test_the_walk_sees_missing_names_changed_defaults_and_lost_coroutines() -> None:
    class Real:
        def same(self, a: int, *, b: int = 1) -> None: ...
        def default(self, b: int = 1) -> None: ...
        def kind(self, *, b: int = 1) -> None: ...
        async def waits(self) -> None: ...
        def missing(self) -> None: ...

    class Ours:
        def same(self, a: int, *, b: int = 1) -> None: ...
        def default(self, b: int = 2) -> None: ...
        def kind(self, b: int = 1) -> None: ...
        def waits(self) -> None: ...

    assert differences(Real, Ours) == {"default", "kind", "waits", "missing"}


def test_exceptions_and_handles_are_related_as_in_fal_client() -> None:
    for name in ("FalClientHTTPError", "FalClientTimeoutError"):
        assert issubclass(getattr(lightfill.fal, name), lightfill.fal.FalClientError)
    assert issubclass(lightfill.fal.FalClientTimeoutError, TimeoutError)
    for name in ("Queued", "InProgress", "Completed"):
        assert issubclass(getattr(lightfill.fal, name), lightfill.fal.Status)
        assert issubclass(getattr(fal_client, name), fal_client.Status)
    handle = lightfill.fal.sync_client.get_handle("owner/alias/path", "id")
    real = fal_client.SyncClient(key="id:secret").get_handle("owner/alias/path", "id")
    assert repr(handle) == repr(real)
    assert [getattr(handle, name).removeprefix(handle.response_url) for name in URLS] == [
        getattr(real, name).removeprefix(real.response_url) for name in URLS
    ]


URLS = ("response_url", "status_url", "cancel_url")


def test_all_lists_every_public_name_sorted_and_each_loads() -> None:
    assert lightfill.fal.__all__ == sorted(lightfill.fal.__all__)
    for name in lightfill.fal.__all__:
        assert getattr(lightfill.fal, name) is not None
    ours = {name for name in vars(lightfill.fal) if not name.startswith("_")}
    assert ours - set(lightfill.fal.__all__) <= {"TYPE_CHECKING", "Any"}


def test_what_is_not_here_says_why() -> None:
    for name in lightfill.fal._NOT_HERE:
        assert hasattr(fal_client, name)
        with pytest.raises(AttributeError, match=r"; (use|it serves|the endpoint)"):
            getattr(lightfill.fal, name)
