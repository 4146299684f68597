"""The line of JSON between a benchmark and the processes it measures; how a side's end is told."""

import sys
from pathlib import Path

import pytest
from bench_requests import workload

from lightfill.bench.own_side import EngineOptions, open_side
from lightfill.bench.side import Side
from lightfill.engine.errors import SessionError

PEERS = Path(__file__).parents[2] / "bench" / "peers"
PEER = f"""
import sys
sys.path.insert(0, {str(PEERS)!r})
from peer_side import Unavailable, serve

def load(work):
    print("libraries print what they like")
    {{load}}
    def paint(photo, mask, seed):
        {{paint}}
        return [photo.resize(work["workload"]["size"])]
    return paint

serve(load, ("pillow", "no-such-package"))
"""


def peer(tmp_path: Path, load: str = "pass", paint: str = "pass") -> Side:
    script = tmp_path / "peer.py"
    script.write_text(PEER.format(load=load, paint=paint))
    work = {"workload": workload().as_json(), "warmups": 2}
    return Side("a peer", [sys.executable, str(script)], work)


def test_a_peer_answers_in_the_order_it_was_asked(tmp_path: Path) -> None:
    with peer(tmp_path) as side:
        assert list(side.ready["versions"]) == ["pillow"]
        assert side.ready["seconds"]["load"] > 0
        assert all(side.run()["total"] > 0 for _ in range(3))
        side.save(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 0
        assert side.end()["peak_bytes"] > 1e6


@pytest.mark.parametrize(
    ("load", "paint", "message"),
    [
        ("raise Unavailable('no such GPU')", "pass", "a peer: no such GPU$"),
        ("pass", "raise ValueError('bad shape\\nmore')", "a peer: ValueError: bad shape$"),
        ("sys.exit(3)", "pass", r"a peer ended without an answer: it said nothing|libraries"),
        ("import os; os.write(2, b'killed'); os._exit(9)", "pass", r"killed.*exit status 9"),
        ("import no_such_library", "pass", "ModuleNotFoundError: No module named"),
    ],
)
def test_a_peer_that_cannot_run_gives_its_reason(
    tmp_path: Path, load: str, paint: str, message: str
) -> None:
    with pytest.raises(SessionError, match=message):
        peer(tmp_path, load, paint)


def test_a_program_that_is_none_of_ours_is_told_by_its_words(tmp_path: Path) -> None:
    script = "import sys; sys.stdin.readline(); sys.exit('what do you want?')"
    with pytest.raises(SessionError, match=r"what do you want\? \(exit status 1\); run it alone"):
        Side("a stranger", [sys.executable, "-c", script], {})


def test_our_side_reports_our_errors() -> None:
    with pytest.raises(SessionError, match="lightfill: bundle 'lightfill-demo' has no UNet for 3"):
        open_side(EngineOptions(), workload(steps=3), warmups=1)


def test_our_side_remembers_only_if_that_is_measured() -> None:
    for remembers in (False, True):
        options = EngineOptions(remembers=remembers)
        with open_side(options, workload(size=(64, 64)), warmups=2) as side:
            stages = side.run()["stages"]
            side.end()
        encoded = stages["vae_encode"] > 1e-3
        assert encoded is not remembers
        assert stages["text"] > 1e-4  # every request has a prompt of its own
