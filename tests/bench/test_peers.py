"""Peers: environments made once, turns taken fairly, and reasons for those that cannot run."""

import importlib
import json
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_requests import workload

from lightfill.bench import peer_environments, peer_list, peer_runs
from lightfill.bench.own_side import EngineOptions
from lightfill.bench.peer_environments import Environment
from lightfill.bench.peer_list import PEERS, SCRIPTS, Peer
from lightfill.engine.errors import InvalidInput, SessionError

ROOT = Path(__file__).parents[2]


class HereEnvironment(Environment):
    """This very environment, or a reason why there is none."""

    def python(self, cache: Path = peer_environments.CACHE) -> Path:
        if self.requirements:
            raise SessionError(f"its environment cannot be made ({self.requirements[0]})")
        return Path(sys.executable)


def scripted(directory: Path, name: str, paint: str, *requirements: str) -> Peer:
    """A peer that paints by a script of ours, in this environment."""
    script = directory / f"{name}.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(SCRIPTS)!r})
        from peer_side import serve
        def load(work):
            assert work["checkpoint"] and work["cache"] and work["dtype"] == "float32"
            def paint(photo, mask, seed):
                {paint}
                return [photo.resize(work["workload"]["size"])]
            return paint
        serve(load, ("pillow",))
        """)
    )
    environment = HereEnvironment(name=name, requirements=requirements)
    return Peer(
        name=name, script=str(script), environment=environment, on="cpu", work={"dtype": "float32"}
    )


@pytest.mark.parametrize("together", [True, False])
def test_ratios_are_taken_pair_by_pair(
    together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_runs, "fit_together", lambda _: together)
    peers = [
        scripted(tmp_path, "slow", "time.sleep(0.6)"),
        scripted(tmp_path, "broken", "raise MemoryError('no 40 GB')"),
        scripted(tmp_path, "absent", "pass", "a package nobody has"),
    ]
    found = peer_runs.compared(
        EngineOptions(), workload(size=(64, 64)), peers, peer_runs.DEMO_CHECKPOINT, 2, 1
    )
    slow, broken, absent = found
    assert slow.reason is None
    assert slow.together is together
    assert slow.seconds is not None
    assert slow.ours is not None
    assert slow.ratios is not None
    assert slow.seconds.least > 0.6
    assert slow.ratios.count == slow.ours.count == 2
    assert slow.ratios.least <= slow.seconds.most / slow.ours.least
    assert slow.ratios.most >= slow.seconds.median / slow.ours.median * 0.99
    assert slow.psnr_db is not None
    assert 5 < slow.psnr_db < 40  # the photo is not what we paint
    assert slow.versions.keys() == {"pillow"}
    assert broken.reason == "broken: MemoryError: no 40 GB"
    assert absent.reason == "its environment cannot be made (a package nobody has)"


def test_who_goes_first_alternates() -> None:
    order: list[str] = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self) -> dict[str, float]:
            order.append(self.name)
            return {"total": float(len(order))}

    ours, theirs = Told("ours"), Told("theirs")
    found = peer_runs._in_turns(ours, theirs, 3)  # type: ignore[arg-type]
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert found == ([1.0, 4.0, 5.0], [2.0, 3.0, 6.0])


def test_the_embedded_model_fits_beside_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_runs.memory, "available_bytes", lambda: 8 << 30)
    assert peer_runs.fit_together(EngineOptions())
    monkeypatch.setattr(peer_runs.memory, "available_bytes", lambda: 1 << 30)
    assert not peer_runs.fit_together(EngineOptions())


def test_the_checkpoint_of_the_embedded_model_is_known(tmp_path: Path) -> None:
    assert peer_runs.checkpoint_of(EngineOptions(), None) == peer_runs.DEMO_CHECKPOINT
    given = peer_runs.DEMO_CHECKPOINT
    assert peer_runs.checkpoint_of(EngineOptions(bundle=tmp_path), given) == given
    with pytest.raises(InvalidInput, match="checkpoint: peers run a diffusers checkpoint"):
        peer_runs.checkpoint_of(EngineOptions(bundle=tmp_path), None)
    with pytest.raises(InvalidInput, match="is no diffusers folder"):
        peer_runs.checkpoint_of(EngineOptions(), tmp_path)


def test_peers_by_name_and_by_kind_of_device() -> None:
    names = {peer.name for peer in PEERS}
    for wanted in ("diffusers-fp32", "diffusers-bf16", "diffusers-compile-fp32", "optimum-onnx"):
        assert wanted in names
    assert {peer.on for peer in peer_list.chosen("all", "cpu")} == {"cpu"}
    assert {peer.on for peer in peer_list.chosen("all", "tensorrt")} == {"cuda"}
    (one, two) = peer_list.chosen("optimum-onnx, onnxruntime-cuda", "cpu")
    assert (one.name, two.name) == ("optimum-onnx", "onnxruntime-cuda")
    with pytest.raises(InvalidInput, match="peers: abacus is none; choose all, or of diffusers-"):
        peer_list.chosen("abacus", "cpu")


def test_every_peer_has_a_script_of_its_own_kind() -> None:
    used = {peer.script for peer in PEERS}
    there = {path.name for path in SCRIPTS.glob("*.py")}
    assert there - used == {"peer_side.py", "checkpoint_files.py"}  # what they share
    for script in used:
        text = (SCRIPTS / script).read_text()
        assert text.startswith('"""Peer: ')
        assert "lightfill" not in text.partition('"""\n')[2]  # it is not installed there


def test_bfloat16_that_pytorch_only_emulates_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    diffusers_eager = importlib.import_module("diffusers_eager")
    unavailable = importlib.import_module("peer_side").Unavailable
    work = {"device": "cpu", "dtype": "bfloat16", "threads": None, "checkpoint": "none"}
    monkeypatch.setattr(diffusers_eager, "_has_fast_bfloat16", lambda: False)
    with pytest.raises(unavailable, match=r"^PyTorch has no fast bfloat16 on this processor$"):
        diffusers_eager.opened(work)
    for other in ({"dtype": "float32"}, {"device": "meta"}):
        with pytest.raises(OSError, match="none"):  # it got as far as the checkpoint
            diffusers_eager.opened(work | other)


def test_whether_bfloat16_is_fast_is_what_onednn_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    diffusers_eager = importlib.import_module("diffusers_eager")
    for answer in (True, False):
        told = SimpleNamespace(_is_mkldnn_bf16_supported=lambda answer=answer: answer)
        monkeypatch.setattr(torch.ops, "mkldnn", told)
        assert diffusers_eager._has_fast_bfloat16() is answer


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What an environment would run; nothing is installed."""
    ran: list[list[str]] = []

    def run(self: Environment, command: list[str]) -> None:
        ran.append(list(command))
        if command[1:3] == ["-m", "venv"]:
            Path(command[-1]).mkdir(parents=True)

    monkeypatch.setattr(Environment, "_run", run)
    return ran


def test_an_environment_is_made_once(tmp_path: Path, commands: list[list[str]]) -> None:
    environment = Environment(name="some", requirements=("a>=1", "b"), without=("c",))
    python = environment.python(tmp_path)
    assert python.is_relative_to(tmp_path)
    venv, install, uninstall = commands
    assert venv[:3] == [sys.executable, "-m", "venv"]
    assert install[-2:] == ["a>=1", "b"]
    assert install[install.index("-c") + 1].endswith("constraints.txt")
    assert uninstall[-3:] == ["uninstall", "--yes", "c"]
    assert environment.python(tmp_path) == python
    assert len(commands) == 3
    other = Environment(name="some", requirements=("a>=2", "b"), without=("c",))
    assert other.python(tmp_path) != python


def test_one_that_was_interrupted_is_made_anew(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment(name="some", requirements=("a",))
    python = environment.python(tmp_path)
    place = python.parents[1]
    (place / "complete.json").unlink()
    (place / "half").touch()
    environment.python(tmp_path)
    assert not (place / "half").exists()
    assert len(commands) == 4


def test_pips_own_words_are_the_reason(tmp_path: Path) -> None:
    script = "import sys; sys.exit('no such package')"
    with pytest.raises(SessionError, match=r"cannot be made \(no such package\); check the netw"):
        Environment(name="x", requirements=())._run([sys.executable, "-c", script])


def test_another_checkpoint_has_other_exports(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    before = peer_environments.kept_exports(tmp_path)
    assert peer_environments.kept_exports(tmp_path) == before
    (tmp_path / "model_index.json").write_text("{} ")
    assert peer_environments.kept_exports(tmp_path) != before


def test_vocabulary_files_are_made_of_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from checkpoint_files import with_vocabulary_files

    made = with_vocabulary_files(peer_runs.DEMO_CHECKPOINT, tmp_path / "checkpoint")
    assert with_vocabulary_files(made, tmp_path / "again") == made  # it has them now
    assert (made / "unet" / "config.json").is_file()
    vocabulary: dict[str, Any] = json.loads((made / "tokenizer" / "vocab.json").read_text())
    assert len(vocabulary) == 49408
    first, *merges = (made / "tokenizer_2" / "merges.txt").read_text().splitlines()
    assert first.startswith("#version")
    assert len(merges) == 49408 - 512 - 2
    assert all(len(merge.split(" ")) == 2 for merge in merges)
