"""Killed, interrupted, run twice: what is in place stays whole, and what was finished is kept."""

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killed_exports import KilledExports
from tiny_exports import OPTIONS, PARTS, When, digests, export, staged

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import BundleNotFound, ExportError
from lightfill.engine.manifest import MANIFEST_NAME
from lightfill.export import bundle_writer

pytestmark = pytest.mark.slow  # needs the traces of the random checkpoint, and kills for a minute


@pytest.fixture(scope="module")
def exports(tiny_bundle: Path) -> Iterator[KilledExports]:
    with KilledExports() as exports:
        yield exports


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


def interrupted(out: Path, at: str = "vae_encoder", **changes: Any) -> None:
    """Ctrl-C while the export makes component `at`."""
    with pytest.raises(KeyboardInterrupt):
        export(out, When(at, lambda: signal.raise_signal(signal.SIGINT)), **changes)


class TestKilled:
    def test_at_random_moments_then_run_to_the_end(
        self, exports: KilledExports, tiny_bundle: Path, out: Path
    ) -> None:
        chance = random.Random(20)
        kills, phases = 0, set()
        while kills < 20:
            outcome = exports.run(
                kill_at=chance.randint(1, 30), delay=chance.choice([0, 0.002, 0.02]),
                out=out, **OPTIONS,
            )  # fmt: skip
            if out.exists():
                Bundle.open(out, check=True)
            if outcome.made is None:
                kills += 1
                phases.add((len(staged(out)), out.exists()))
            else:
                assert digests(out) == digests(tiny_bundle)
                shutil.rmtree(out)
        assert len(phases) >= 4, phases
        exports.run(out=out, **OPTIONS)
        assert digests(out) == digests(tiny_bundle)
        assert list(out.parent.iterdir()) == [out]

    def test_before_every_change_of_publishing(
        self, exports: KilledExports, tiny_bundle: Path, out: Path
    ) -> None:
        exports.run(kill_after=PARTS[-1], out=out, **OPTIONS)
        change, kills, published = 1, 0, False
        while exports.run(kill_at=change, out=out, **OPTIONS).made is None:
            kills += 1
            change = 1 if out.exists() > published else change + 1
            published = out.exists()
            if published:
                assert digests(out) == digests(tiny_bundle)
            else:
                assert staged(out) == {*PARTS}
        assert kills > change > 3, "killed before publishing, and while cleaning up after it"
        assert digests(out) == digests(tiny_bundle)
        assert list(out.parent.iterdir()) == [out]

    def test_before_every_change_of_adding_a_unet(
        self, exports: KilledExports, tiny_bundle: Path, out: Path, tmp_path: Path
    ) -> None:
        more = {**OPTIONS, "steps": (4, 8)}
        whole = Path(shutil.copytree(tiny_bundle, tmp_path / "whole"))
        exports.run(out=whole, **more)
        before, after = digests(tiny_bundle), digests(whole)
        unchanged = before.items() - {(MANIFEST_NAME, before[MANIFEST_NAME])}
        shutil.copytree(tiny_bundle, out)
        exports.run(kill_after="unet-8step", out=out, **more)
        change, steps = 1, [1]
        while exports.run(kill_at=change, out=out, **more).made is None:
            now = digests(out)
            assert unchanged <= now.items()
            assert now[MANIFEST_NAME] in {before[MANIFEST_NAME], after[MANIFEST_NAME]}
            steps.append(len(Bundle.open(out, check=True).manifest.steps))
            change = 1 if steps[-1] > steps[-2] else change + 1
        assert steps == sorted(steps)
        assert steps.count(1) > 10
        assert steps.count(2) > 3
        assert digests(out) == after
        assert {path.name for path in tmp_path.iterdir()} == {"bundle", "whole"}

    def test_an_addition_given_up_leaves_nothing_in_the_bundle(
        self, exports: KilledExports, tiny_bundle: Path, out: Path
    ) -> None:
        more = {**OPTIONS, "steps": (4, 8)}
        shutil.copytree(tiny_bundle, out)
        exports.run(kill_after="unet-8step", out=out, **more)
        change = 1
        while not (out / "unet-8step").exists():
            exports.run(kill_at=change, out=out, **more)
            change += 1
        assert Bundle.open(out, check=True).manifest.steps.keys() == {4}
        exports.run(out=out, **OPTIONS)
        assert digests(out) == digests(tiny_bundle)
        assert list(out.parent.iterdir()) == [out]


class TestInterrupted:
    def test_finished_components_are_kept(
        self, exports: KilledExports, tiny_bundle: Path, out: Path
    ) -> None:
        interrupted(out)
        assert not out.exists()
        assert staged(out) == {"text_encoder", "text_encoder_2"}
        with pytest.raises(BundleNotFound):
            Bundle.open(out.with_name(".bundle.partial"))
        outcome = exports.run(out=out, **OPTIONS)
        assert outcome.made == {part: not part.startswith("text") for part in PARTS}
        assert digests(out) == digests(tiny_bundle)

    def test_altered_ones_are_made_again(
        self, exports: KilledExports, tiny_bundle: Path, out: Path
    ) -> None:
        interrupted(out, at="unet-4step")
        partial = out.with_name(".bundle.partial")
        first, second, third, fourth = (partial / "bundle" / part for part in PARTS[:4])
        content = bytearray((first / "weights.bin").read_bytes())
        content[-1] ^= 1
        (first / "weights.bin").write_bytes(content)
        (second / "more").touch()
        (third / "float32.onnx").unlink()
        (partial / f"{fourth.name}.json").write_bytes(b"{")
        assert exports.run(out=out, **OPTIONS).made == dict.fromkeys(PARTS, True)
        assert digests(out) == digests(tiny_bundle)

    def test_another_request_is_not_served_from_them(self, out: Path) -> None:
        changes: list[dict[str, Any]] = [
            {}, {"weights": "float32"}, {"verify": True}, {"arithmetics": ("float16",)}
        ]  # fmt: skip
        interrupted(out, at="text_encoder_2")
        record = out.with_name(".bundle.partial") / "text_encoder.json"
        for change in changes:
            before = record.read_bytes()
            interrupted(out, at="text_encoder_2", **change)
            assert (record.read_bytes() == before) is (change == {}), change

    def test_those_of_another_checkpoint_s_name_are_not_published_as_this_one_s(
        self, random_folder: Path, out: Path, tmp_path: Path
    ) -> None:
        copy = shutil.copytree(random_folder, tmp_path / "copy")
        for base in (random_folder, copy):
            interrupted(out, at="text_encoder_2", synthetic=None, base=base)
        record = out.with_name(".bundle.partial") / "text_encoder.json"
        assert '"checkpoint":"copy"' in record.read_text()

    def test_those_the_next_request_lacks_are_not_published(
        self, exports: KilledExports, tiny_bundle: Path, out: Path
    ) -> None:
        more = {**OPTIONS, "steps": (2, 4)}
        exports.run(kill_after=PARTS[-1], out=out, **more)
        assert exports.run(out=out, **OPTIONS).made == dict.fromkeys(PARTS, False)
        assert digests(out) == digests(tiny_bundle)
        assert list(out.parent.iterdir()) == [out]


class TestTwoAtOnce:
    def test_the_second_is_refused_and_the_first_completes(
        self, exports: KilledExports, tiny_bundle: Path, out: Path
    ) -> None:
        refused = []

        def another_process() -> None:
            with pytest.raises(RuntimeError, match=r"another export is writing .*; wait for it"):
                exports.run(out=out, **OPTIONS)
            refused.append(True)

        export(out, When("text_encoder", another_process))
        assert refused
        assert digests(out) == digests(tiny_bundle)

    def test_one_that_planned_before_the_other_was_done_says_so(
        self, tiny_bundle: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            bundle_writer, "_check_space", lambda *_: shutil.copytree(tiny_bundle, out)
        )
        with pytest.raises(ExportError, match="changed by another export; run the same command"):
            export(out)
        assert digests(out) == digests(tiny_bundle)
        assert list(out.parent.iterdir()) == [out]
