"""Many callers at once, through fal's API and the durable queue, in a process of their own."""

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..engine.errors import LightfillError
from .own_side import EngineOptions, answers, say
from .side import Side
from .workload import Workload


def measured(options: EngineOptions, workload: Workload, clients: int, each: int) -> dict[str, Any]:
    """Let `clients` threads make `each` requests one after another.

    {"seconds": of every request from submit to result, "wall": of all of them together}.
    """
    work = {
        "engine": options.as_json(),
        "workload": workload.as_json(),
        "clients": clients,
        "each": each,
    }
    command = [sys.executable, "-m", "lightfill.bench.concurrency"]
    with Side("lightfill's queue", command, work) as side:
        return side.run()


def main() -> None:
    """Open the model, run one request, then all clients."""
    with answers() as out, tempfile.TemporaryDirectory() as directory:
        work = json.loads(sys.stdin.readline())
        try:
            _serve(work, Path(directory), out)
        except LightfillError as error:
            say(out, {"error": str(error)})
            sys.exit(1)


def _serve(work: dict[str, Any], directory: Path, out: Any) -> None:
    try:
        import lightfill.fal as fal_client
    except ModuleNotFoundError as error:
        raise LightfillError(
            f"the queue needs {error.name}; `pip install 'lightfill[fal]'`"
        ) from error
    from ..engine.fal.service import APPLICATION

    options = work["engine"]
    given = {name: options[name] for name in ("device", "precision", "threads", "low_memory")}
    fal_client.configure(
        fal_client.Settings.from_environment(
            {}, data_dir=directory, bundle=options["bundle"] and Path(options["bundle"]), **given
        )
    )
    workload = Workload.from_json(work["workload"])
    arguments = {
        "image_url": fal_client.upload_file(workload.image),
        "mask_url": fal_client.upload_file(workload.mask),
        "prompt": workload.prompt,
        "image_size": {"width": workload.size[0], "height": workload.size[1]},
        "num_inference_steps": str(workload.steps),
        "strength": workload.strength,
        "enable_safety_checker": False,
        "sync_mode": False,
    }

    def request(number: int) -> float:
        start = time.perf_counter()
        fal_client.subscribe(APPLICATION, {**arguments, "seed": number})
        return time.perf_counter() - start

    def client(number: int) -> list[float]:
        return [request(1000 * number + index) for index in range(work["each"])]

    try:
        request(0)
        say(out, {"ready": True})
        sys.stdin.readline()
        start = time.perf_counter()
        with ThreadPoolExecutor(work["clients"]) as threads:
            seconds = [
                each for found in threads.map(client, range(work["clients"])) for each in found
            ]
        say(out, {"seconds": seconds, "wall": time.perf_counter() - start})
    finally:
        fal_client.shutdown()


if __name__ == "__main__":
    main()
