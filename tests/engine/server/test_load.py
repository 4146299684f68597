"""Many callers at once, some of whom change their minds or vanish: all are accounted for.

TESTS_LOAD_EACH says how many requests each of the hundred sends; `make load-server` asks for 20.
"""

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import httpx2
import psutil
import pytest
from running_server import ENDPOINT
from server_process import ServerProcess

REQUESTS = "/queue/fal-ai/fast-lightning-sdxl/requests"
CLIENTS, EACH = 100, int(os.environ.get("TESTS_LOAD_EACH", "4"))
QUICK = """
import time
from lightfill.engine.errors import Cancelled
from lightfill.engine.fal.endpoint import Endpoint
def run(self, arguments, *, on_log, cancelled, owner):
    for step in (1, 2):
        on_log(f"step {step}/2")
        time.sleep(0.002)
        if cancelled(): raise Cancelled("cancelled")
    return {"number": arguments["number"], "ballast": "x" * 20_000}
Endpoint.run, Endpoint.warm_up = run, lambda self: None
"""


async def run(client: httpx2.AsyncClient, number: int) -> str:
    reply = await client.post(f"/run/{ENDPOINT}", json={"number": number})
    assert (reply.status_code, reply.json()["number"]) == (200, number)
    return "run"


async def queued(client: httpx2.AsyncClient, number: int) -> str:
    url = await submitted(client, number)
    async with client.stream("GET", f"{url}/status/stream", params={"logs": 1}) as stream:
        lines = [line async for line in stream.aiter_lines() if line.startswith("data:")]
    assert '"COMPLETED"' in lines[-1]
    reply = await client.get(url)
    assert (reply.status_code, reply.json()["number"]) == (200, number)
    return "queued"


async def cancelled(client: httpx2.AsyncClient, number: int) -> str:
    url = await submitted(client, number)
    told = await client.put(f"{url}/cancel")
    assert told.status_code in {202, 400}
    while (await client.get(f"{url}/status")).status_code == 202:
        await asyncio.sleep(0.05)
    assert (await client.get(url)).status_code in {200, 499}
    return "cancelled"


async def vanished(client: httpx2.AsyncClient, number: int) -> str:
    """Leaves a run, or a stream, while it is on."""
    try:
        async with asyncio.timeout(random.uniform(0.005, 0.1)):
            await random.choice([run, queued])(client, number)
    except TimeoutError:
        return "vanished"
    return "ran"


async def submitted(client: httpx2.AsyncClient, number: int) -> str:
    reply = await client.post(f"/queue/{ENDPOINT}", json={"number": number})
    assert reply.status_code == 200, reply.text
    return f"{REQUESTS}/{reply.json()['request_id']}"


async def everybody(origin: str, clients: int, each: int) -> Counter[str]:
    async def one(index: int) -> list[str]:
        kinds = [run, queued, cancelled, vanished]
        async with httpx2.AsyncClient(base_url=origin, timeout=120) as client:
            return [await random.choice(kinds)(client, index * each + i) for i in range(each)]

    done = await asyncio.gather(*map(one, range(clients)))
    return Counter(kind for kinds in done for kind in kinds)


@pytest.mark.slow  # hundreds of requests of 100 clients at once
def test_a_hundred_clients_are_all_accounted_for_and_memory_stays_flat(tmp_path: Path) -> None:
    limits = {"LIGHTFILL_MAX_QUEUE_LENGTH": "none"}
    with ServerProcess(tmp_path, "--workers", "2", code=QUICK, **limits) as server:
        server.until_ready()
        process = psutil.Process(server.process.pid)
        asyncio.run(everybody(server.origin, CLIENTS, max(EACH // 4, 2)))
        before = process.memory_info().rss
        seen = asyncio.run(everybody(server.origin, CLIENTS, EACH))
        grown = process.memory_info().rss - before
        assert seen.total() == CLIENTS * EACH
        assert min(seen[kind] for kind in ("run", "queued", "cancelled", "vanished")) > 0
        assert grown < 32 << 20, f"grew by {grown / 1e6:.0f} MB"
        with server.client() as client:
            for _ in range(600):  # nobody waits for those whose callers vanished
                if client.get("/ready").json()["waiting"] == 0:
                    break
                asyncio.run(asyncio.sleep(0.05))
            else:
                raise AssertionError("requests are left over")
        print(seen, f"{grown / 1e6:.1f} MB")
        open_files = process.num_fds()
        assert open_files < 150, open_files
