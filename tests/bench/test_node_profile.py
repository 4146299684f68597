"""A component's profile by operator, on the embedded model."""

import pytest

from lightfill.bench import node_profile
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import InvalidInput


@pytest.mark.parametrize("component", ["unet", "vae_decoder", "text_encoder_2"])
def test_operators_have_their_seconds(component: str) -> None:
    seconds = node_profile.profiled(Bundle.open(), component, (64, 96), runs=2)
    assert all(value >= 0 for value in seconds.values())
    assert seconds["MatMul"] > 0
    assert ("Conv" in seconds) is (component != "text_encoder_2")


def test_runs_are_told_apart_and_the_first_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(operator: str, microseconds: int) -> dict[str, object]:
        name, args = f"/{operator}_kernel_time", {"op_name": operator}
        return {"name": name, "dur": microseconds, "args": args}

    run = {"name": "model_run", "dur": 1, "args": {}}
    load = {"name": "session_initialization", "dur": 9, "args": {}}
    events = [load, node("Conv", 5_000_000), run, node("Conv", 1_000_000), node("Conv", 500_000),
              node("MatMul", 250_000), run]  # fmt: skip
    assert list(node_profile._by_run(events)) == [{"Conv": 5.0}, {"Conv": 1.5, "MatMul": 0.25}]


def test_command_prints_a_table_with_shares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["node_profile", "--image-size", "64x64", "--runs", "1"])
    node_profile.main()
    out = capsys.readouterr().out
    assert out.startswith("unet at 64x64, 1 runs, limit ")
    assert "| MatMul |" in out
    assert out.splitlines()[-1].startswith("| all | 0.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "source"], "image_size: 'source' has no size of its own"),
        (["--image-size", "32x32"], "image_size: must be from 64"),
        (["--image-size", "64x64", "--runs", "0"], "runs: must be from 1 to 1000, got 0"),
    ],
)
def test_what_cannot_be_profiled_is_refused(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["node_profile", *options])
    with pytest.raises(InvalidInput, match=message):
        node_profile.main()
