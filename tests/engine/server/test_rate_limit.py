"""requests_per_minute: what is counted, for whom, and how the refusal reads."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyed_server import keyed
from running_server import ENDPOINT, running

from lightfill.engine.errors import RateLimited
from lightfill.engine.fal.settings import Settings
from lightfill.engine.server import rate_limit as module
from lightfill.engine.server.rate_limit import WINDOW_S, RateLimit

REQUESTS = "/queue/fal-ai/fast-lightning-sdxl/requests"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def allowed(limit: RateLimit, caller: str = "a") -> bool:
    try:
        limit.count(caller)
    except RateLimited:
        return False
    return True


@given(
    limit=st.integers(1, 5),
    waits=st.lists(st.floats(0, 40, allow_nan=False), max_size=60),
)
def test_no_minute_has_more_than_the_limit_and_nobody_is_refused_before(
    limit: int, waits: list[float]
) -> None:
    clock = Clock()
    rate = RateLimit(limit, clock)
    passed: list[float] = []
    for wait in waits:
        clock.now += wait
        within = [time for time in passed if time > clock.now - WINDOW_S]
        assert allowed(rate) is (len(within) < limit)
        if len(within) < limit:
            passed.append(clock.now)


def test_who_waits_as_long_as_told_gets_through() -> None:
    clock = Clock()
    rate = RateLimit(2, clock)
    for wait in (0, 10):
        clock.now += wait
        rate.count("a")
    with pytest.raises(RateLimited, match="2 requests a minute") as refused:
        rate.count("a")
    assert refused.value.retry_after_s == pytest.approx(50)
    assert allowed(rate, "b"), "each caller has a limit of its own"
    clock.now += 50
    assert allowed(rate)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    rate = RateLimit(5, clock)
    for number in range(100):
        rate.count(str(number))
    clock.now += WINDOW_S
    rate.count("a")
    assert list(rate._times) == ["a"], "callers who are silent for a minute are forgotten"
    monkeypatch.setattr(module, "_MAX_CALLERS", 10)
    for number in range(100):
        for _ in range(7):
            allowed(rate, str(number))
    assert len(rate._times) == 10
    assert max(map(len, rate._times.values())) == 5


def test_no_limit_remembers_nobody() -> None:
    rate = RateLimit(None)
    rate.count("a")
    assert not rate._times


def test_submits_runs_and_uploads_of_one_key_are_counted_together(tmp_path: Path) -> None:
    with (
        keyed(tmp_path, requests_per_minute=5, workers=0) as server,
        server.me as me,
        server.you as you,
    ):
        url = me.post("/rest/storage/upload/initiate", json={}).json()["upload_url"]
        submitted = me.post(f"/queue/{ENDPOINT}", json={"prompt": "go"})
        assert submitted.status_code == 200
        assert me.post("/cdn/files/upload", content=b"x").status_code == 200
        assert me.post("/cdn/files/upload/multipart").status_code == 200
        assert me.post(f"/queue/{ENDPOINT}", content=b"not json").status_code == 422
        calls = [
            ("POST", f"/queue/{ENDPOINT}"), ("POST", f"/run/{ENDPOINT}"),
            ("GET", f"/run/{ENDPOINT}"), ("POST", f"/run/{ENDPOINT}/stream"),
            ("POST", "/cdn/files/upload"), ("POST", "/cdn/files/upload/multipart"),
            ("POST", "/rest/storage/upload/initiate"),
            ("POST", "/rest/storage/upload/initiate-multipart"),
        ]  # fmt: skip
        for method, path in calls:
            reply = me.request(method, path)
            assert reply.status_code == 429
            assert reply.json()["error_type"] == "rate_limited"
            assert "5 requests a minute" in reply.json()["detail"]
            assert reply.headers["x-fal-error-type"] == "rate_limited"
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert reply.headers["content-type"] == "application/json"
        request_id = submitted.json()["request_id"]
        assert me.get(f"{REQUESTS}/{request_id}/status").status_code == 202, "polling is free"
        assert me.put(url, content=b"x").status_code == 200, "it was counted when it was given out"
        assert you.post(f"/queue/{ENDPOINT}", json={"prompt": "go"}).status_code == 200


def test_without_keys_addresses_are_counted(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, port=0, requests_per_minute=1, workers=0)
    with running(settings) as server:
        with server.client("any:key") as client:
            assert client.post(f"/queue/{ENDPOINT}", json={"prompt": "go"}).status_code == 200
        with server.client("other:key") as client:
            assert client.post(f"/queue/{ENDPOINT}", json={"prompt": "go"}).status_code == 429


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, port=0, max_queue_length=1, workers=0)
    with running(settings) as server, server.client() as client:
        assert client.post(f"/queue/{ENDPOINT}", json={"prompt": "go"}).status_code == 200
        for path in (f"/queue/{ENDPOINT}", f"/run/{ENDPOINT}", f"/run/{ENDPOINT}/stream"):
            whole = {"image_url": "data:,x", "mask_url": "data:,x", "prompt": "go"}
            reply = client.post(path, json=whole)
            assert reply.status_code == 429
            assert reply.json()["error_type"] == "queue_full"
            assert int(reply.headers["retry-after"]) >= 1
