"""A server killed with SIGKILL in the middle: every webhook comes after the restart."""

import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from killed_server import KilledServer
from running_server import ENDPOINT
from webhook_receiver import Told, receiving, verified

JOBS = 100


@pytest.fixture
def port() -> int:
    """A free one, for all starts."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found: int = listening.getsockname()[1]
        return found


def submit(origin: str, prompt: str, webhook: str) -> str:
    reply = httpx2.post(
        f"{origin}/queue/{ENDPOINT}",
        json={"prompt": prompt}, params={"fal_webhook": webhook}, timeout=60,
    )  # fmt: skip
    return str(reply.raise_for_status().json()["request_id"])


def jwks(server: KilledServer) -> str:
    return f"{server.origin}/.well-known/jwks.json"


@pytest.mark.slow  # two starts of a server and a hundred jobs
def test_a_hundred_jobs_and_their_webhooks(tmp_path: Path, port: int) -> None:
    with receiving() as receiver:
        with KilledServer(tmp_path, port) as server:
            with ThreadPoolExecutor(8) as threads:
                ids = list(
                    threads.map(
                        lambda n: submit(server.origin, f"job {n}", receiver.url), range(JOBS)
                    )
                )
            receiver.wait_for(len(receiver.told) + 3)
        before = len(receiver.told)
        assert before < JOBS, "it was killed too late to prove anything"
        with KilledServer(tmp_path, port) as server:
            told = receiver.wait_for(JOBS)
            while len({each.body["request_id"] for each in told}) < JOBS:
                told = receiver.wait_for(len(told) + 1)
            for n, request_id in enumerate(ids):
                url = f"{server.origin}/queue/fal-ai/fast-lightning-sdxl/requests/{request_id}"
                assert httpx2.get(url).json() == {"prompt": f"job {n}"}
            check_all(told, ids, jwks(server))


def check_all(told: list[Told], ids: list[str], keys: str) -> None:
    counted = Counter(each.body["request_id"] for each in told)
    assert set(counted) == set(ids)
    assert sum(counted.values()) <= JOBS + 8, "again only what was on its way when it was killed"
    for each in told:
        prompt = f"job {ids.index(each.body['request_id'])}"
        assert (each.body["status"], each.body["payload"]) == ("OK", {"prompt": prompt})
    assert all(verified(keys, each) for each in (told[0], told[-1])), "the key survives, too"


@pytest.mark.slow  # two starts of a server
def test_a_webhook_on_its_way_and_one_that_waits_for_its_retry(tmp_path: Path, port: int) -> None:
    hung = threading.Event()

    def hang_at_first(count: int) -> int:
        if count == 1:
            hung.wait(30)
        return 200

    with receiving() as slow, receiving() as broken:
        slow.answer = hang_at_first
        broken.answer = lambda _: 503
        with KilledServer(tmp_path, port) as server:
            on_its_way = submit(server.origin, "a", slow.url)
            waiting = submit(server.origin, "b", broken.url)
            slow.wait_for(1)
            broken.wait_for(2)
        hung.set()
        broken.told.clear()
        broken.answer = lambda _: 200
        with KilledServer(tmp_path, port) as server:
            assert slow.wait_for(2)[-1].body["request_id"] == on_its_way
            assert broken.wait_for(1)[-1].body["request_id"] == waiting
            assert verified(jwks(server), broken.told[-1])
            slow.stays_at(2, 0.3)
            broken.stays_at(1, 0.3)
