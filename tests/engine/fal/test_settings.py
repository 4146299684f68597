"""Settings: defaults, variables, arguments, what is refused, and what the doctor shows."""

import dataclasses
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightfill.engine.errors import InvalidInput
from lightfill.engine.fal.queue import JobQueue
from lightfill.engine.fal.settings import Settings


def test_defaults_are_fals_limits_and_refuse_private_addresses() -> None:
    settings = Settings.from_environment({})
    assert settings.max_download_bytes == 50 << 20
    assert (settings.download_timeout_s, settings.max_redirects) == (30.0, 5)
    assert settings.allow_private_addresses is False
    assert settings.database == f"sqlite:///{settings.data_dir / 'queue.sqlite3'}"
    assert settings == Settings()


def test_variables_are_read_by_the_fields_type() -> None:
    settings = Settings.from_environment(
        {
            "LIGHTFILL_DATA_DIR": "/srv/data", "LIGHTFILL_MAX_QUEUE_LENGTH": "none",
            "LIGHTFILL_LEASE_S": " 60 ", "LIGHTFILL_ALLOW_PRIVATE_ADDRESSES": "Yes",
            "LIGHTFILL_MAX_PIXELS": "1_000_000", "LIGHTFILL_LOW_MEMORY": "off",
            "LIGHTFILL_PUBLIC_URL": "https://fill.example/", "LIGHTFILL_DEVICE": "",
        }
    )  # fmt: skip
    assert settings.data_dir == Path("/srv/data")
    assert settings.max_queue_length is None
    assert settings.lease_s == 60.0
    assert settings.allow_private_addresses is True
    assert settings.max_pixels == 1_000_000
    assert settings.low_memory is False
    assert settings.public_url == "https://fill.example"
    assert settings.device == "cpu"


def test_arguments_win_over_variables_and_none_means_not_given() -> None:
    environment = {"LIGHTFILL_DEVICE": "openvino", "LIGHTFILL_THREADS": "3"}
    settings = Settings.from_environment(environment, device="cuda", threads=None)
    assert (settings.device, settings.threads) == ("cuda", 3)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTFILL_MAX_REDIRECTS", "0")
    assert Settings.from_environment().max_redirects == 0


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().device = "cuda"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MAX_PIXELS", "many"), ("MAX_PIXELS", "0"), ("MAX_PIXELS", "100000000"),
        ("LEASE_S", "nan"), ("LEASE_S", "inf"), ("LEASE_S", "-1"), ("LEASE_S", "0"),
        ("HEARTBEAT_S", "20"), ("ALLOW_PRIVATE_ADDRESSES", "maybe"), ("MAX_REDIRECTS", "-1"),
        ("MAX_DOWNLOAD_BYTES", "50MB"), ("PUBLIC_URL", "fill.example"), ("THREADS", "1.5"),
        ("PUBLIC_URL", "https://a.example/?x=1"), ("MAX_DOWNLOAD_BYTES", "none"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(name: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^LIGHTFILL_{name}: must be .*; correct it"):
        Settings.from_environment({f"LIGHTFILL_{name}": text})


@pytest.mark.parametrize(
    "wrong",
    [{"lease_s": "30"}, {"max_pixels": 1.0}, {"max_pixels": True}, {"device": None}],
)
def test_a_wrong_argument_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=rf"^LIGHTFILL_{next(iter(wrong)).upper()}: must be "):
        Settings(**wrong)


def test_text_and_whole_numbers_are_taken_where_a_path_or_float_is_meant() -> None:
    settings = Settings(data_dir="/srv", lease_s=60)  # type: ignore[arg-type]
    assert settings.data_dir == Path("/srv")
    assert type(settings.lease_s) is float


def test_paths_are_those_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may change its directory between the settings and the first job."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    settings = Settings(data_dir="jobs", bundle=Path("~/model"))  # type: ignore[arg-type]
    monkeypatch.chdir("/")
    assert (settings.data_dir, settings.bundle) == (tmp_path / "jobs", Path("/home/me/model"))
    with pytest.raises(InvalidInput, match="LIGHTFILL_BUNDLE: must be a path"):
        Settings(bundle="~nobody-of-this-name/model")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["what? #%20x", "\u2603 50%", "a+b&c=d"])
def test_any_directory_may_hold_the_jobs(name: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / name)
    JobQueue.open(settings.database, max_length=None, retention_s=60, lease_s=30).close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "queue.sqlite3").is_file()


def test_a_misspelt_variable_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Settings.from_environment({"LIGHTFILL_MAX_PIXEL": "1", "OTHER": "2"})
    (record,) = caplog.records
    assert record.getMessage() == (
        "LIGHTFILL_MAX_PIXEL is no setting; did you mean LIGHTFILL_MAX_PIXELS?"
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hidden@db/jobs", "postgresql://me:a:hidden@db/jobs",
        "postgresql://me:hid/den@db/jobs", "postgresql://db/jobs?user=me&password=hidden&x=1",
    ],
)  # fmt: skip
def test_passwords_are_not_shown(url: str) -> None:
    shown = {row.variable: row for row in Settings(database_url=url).shown()}
    row = shown["LIGHTFILL_DATABASE_URL"]
    assert row.changed
    assert "hid" not in row.value
    assert "***" in row.value
    assert "db/jobs" in row.value
    assert "hid" not in repr(Settings(database_url=url))


def test_the_doctor_shows_every_setting() -> None:
    code = "from lightfill.engine.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"], capture_output=True, text=True, check=True,
        env={**os.environ, "LIGHTFILL_MAX_REDIRECTS": "3", "COLUMNS": "200"},
    )  # fmt: skip
    for field in dataclasses.fields(Settings):
        assert f"LIGHTFILL_{field.name.upper()} " in done.stdout
    assert "3 (set)" in done.stdout


def test_the_documentation_lists_every_setting_and_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "files.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(LIGHTFILL_\w+)` \| (.*?) \|", page, re.MULTILINE)
    shown = {row.variable: row.value for row in Settings().shown()}
    assert [name for name, _ in rows] == list(shown)
    for name, default in rows:
        if default.isdecimal():
            assert float(default) == float(shown[name])
