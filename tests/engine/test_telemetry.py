"""Nobody is told that OpenVINO or NNCF is used here: no event, no identity in the user's home."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightfill.engine.telemetry import no_telemetry

SESSION = (
    "from lightfill.engine.bundle import Bundle\n"
    "from lightfill.engine.sessions import open_session\n"
    "open_session(Bundle.open(), 'text_encoder', 'openvino').close()"
)
QUANTIZER = "import lightfill.export.quantization"
WITHOUT_US = "import openvino"


def traces(home: Path, program: str) -> list[str]:
    """What `program`, run with an empty home and nothing that tells of CI, leaves of telemetry."""
    home.mkdir()
    environment = {"HOME": str(home), "PATH": ""}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, check=False,
                         capture_output=True, text=True)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return [path.name for path in home.rglob("*") if path.name in {"intel", "openvino_ga_cid"}]


@pytest.mark.parametrize("program", [SESSION, QUANTIZER])
def test_our_imports_leave_no_trace(tmp_path: Path, program: str) -> None:
    assert traces(tmp_path / "home", program) == []


def test_an_import_of_ones_own_does(tmp_path: Path) -> None:
    """The premise: were it not so, the test above could not fail, and the module could go."""
    assert "openvino_ga_cid" in traces(tmp_path / "home", WITHOUT_US)


def test_what_was_imported_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = object()
    monkeypatch.setitem(sys.modules, "openvino_telemetry", theirs)
    with no_telemetry():
        assert sys.modules["openvino_telemetry"] is theirs
    assert sys.modules["openvino_telemetry"] is theirs


def test_absence_ends_also_when_an_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    with pytest.raises(ImportError), no_telemetry():
        import openvino_telemetry  # noqa: F401
    assert "openvino_telemetry" not in sys.modules
