"""What /metrics says, read as Prometheus reads it."""

import time
from dataclasses import replace
from typing import Any

import pytest
from fal_requests import SMALL
from fastapi import HTTPException
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from running_server import ENDPOINT, RunningServer, running
from scripted_endpoint import ScriptedEndpoint
from webhook_receiver import receiving

from lightfill import __version__
from lightfill.engine.errors import DatabaseUnavailable
from lightfill.engine.fal.settings import Settings
from lightfill.engine.server import metrics_routes
from lightfill.engine.server.metrics import Metrics
from lightfill.engine.server.webhooks import WebhookPolicy

QUEUE = "/queue/fal-ai/fast-lightning-sdxl"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(server: RunningServer) -> Samples:
    with server.client() as client:
        reply = client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in plain_text(reply.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"lightfill_{name}", frozenset(labels.items())), 0.0)


def run_to_end(server: RunningServer, prompt: str, **query: Any) -> str:
    with server.client() as client:
        reply = client.post(f"/queue/{ENDPOINT}", json={"prompt": prompt}, params=query)
        request_id = str(reply.raise_for_status().json()["request_id"])
        while client.get(f"{QUEUE}/requests/{request_id}/status").status_code == 202:
            time.sleep(0.005)
        return request_id


def test_jobs_by_outcome_their_waits_and_stages(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = {"timings": {"fetch": 0.02, "inference": 3.0, "vae_decode": 0.3, "made up": 1.0}}
    run_to_end(server, "refuse")
    run_to_end(server, "break")
    monkeypatch.setattr(ScriptedEndpoint, "run", lambda *_, **__: output)
    run_to_end(server, "go")
    run_to_end(server, "go")
    samples = scraped(server)
    assert value(samples, "jobs_total", status="200", error_type="") == 2
    assert value(samples, "jobs_total", status="422", error_type="value_error") == 1
    assert value(samples, "jobs_total", status="500", error_type="internal_error") == 1
    assert value(samples, "job_wait_seconds_count") == 4
    assert 0 <= value(samples, "job_wait_seconds_sum") < 60
    assert value(samples, "job_stage_seconds_count", stage="inference") == 2
    assert value(samples, "job_stage_seconds_sum", stage="inference") == 6.0
    assert value(samples, "job_stage_seconds_bucket", stage="fetch", le="0.025") == 2
    assert value(samples, "job_stage_seconds_bucket", stage="vae_decode", le="0.25") == 0
    stages = {dict(labels).get("stage") for name, labels in samples if "stage_seconds" in name}
    assert stages == {"fetch", "inference", "vae_decode"}


def test_the_demo_models_stages(demo_server: RunningServer) -> None:
    with demo_server.client() as client:
        reply = client.post(f"/run/{ENDPOINT}", json={**SMALL, "enable_safety_checker": False})
        assert reply.status_code == 200, reply.text
        timings = reply.json()["timings"]
    samples = scraped(demo_server)
    for stage in ("fetch", "inference", "upload", "text", "vae_encode", "unet", "vae_decode"):
        assert value(samples, "job_stage_seconds_sum", stage=stage) == timings[stage]


def test_the_queue_as_it_is_now(server: RunningServer, scripted: type[ScriptedEndpoint]) -> None:
    with server.client() as client:
        ids = [
            client.post(f"/queue/{ENDPOINT}", json={"prompt": "wait"}).json()["request_id"]
            for _ in range(3)
        ]
        while not scripted.ran:
            time.sleep(0.005)
        samples = scraped(server)
        assert value(samples, "database_up") == 1
        assert value(samples, "queue_depth") == 2
        assert value(samples, "jobs_running") == 1
        client.put(f"{QUEUE}/requests/{ids[-1]}/cancel")
        samples = scraped(server)
        assert value(samples, "queue_depth") == 1
        assert value(samples, "jobs_total", status="499", error_type="client_cancelled") == 1
        scripted.gate.set()
        while client.get(f"{QUEUE}/requests/{ids[1]}/status").status_code == 202:
            time.sleep(0.005)
    assert value(scraped(server), "queue_depth") == 0


def test_what_nobody_ran_in_time_is_counted(
    server: RunningServer, scripted: type[ScriptedEndpoint]
) -> None:
    with server.client() as client:
        client.post(f"/queue/{ENDPOINT}", json={"prompt": "wait"})
        late = client.post(
            f"/queue/{ENDPOINT}", json={}, headers={"x-fal-request-timeout": "0.01"}
        ).json()["request_id"]
        while client.get(f"{QUEUE}/requests/{late}/status").status_code == 202:
            time.sleep(0.005)
    scripted.gate.set()
    found = value(scraped(server), "jobs_total", status="504", error_type="startup_timeout")
    assert found == 1


def test_requests_by_route_and_never_by_what_callers_send(server: RunningServer) -> None:
    with server.client() as client:
        for n in range(30):
            client.get(f"{QUEUE}/requests/unknown-{n}/status", params={"logs": 1})
            client.get(f"/nowhere/{n}")
            client.request(["PURGE", "LOCK", "REPORT"][n % 3], "/health")
        run_to_end(server, "refuse")
        samples = scraped(server)
    route = f"{QUEUE}/requests/{{request_id}}/status"
    assert value(samples, "http_requests_total", method="GET", route=route, status="404") == 30
    assert value(samples, "http_requests_total", method="GET", route="other", status="404") == 30
    assert (
        value(samples, "http_requests_total", method="other", route="/health", status="405") == 30
    )
    submit = f"/queue/{ENDPOINT}"
    assert value(samples, "http_requests_total", method="POST", route=submit, status="200") == 1
    assert value(samples, "http_request_seconds_count", method="POST", route=submit) == 1
    text = repr(samples)
    assert "unknown-" not in text
    assert "nowhere" not in text
    assert "PURGE" not in text


def test_a_fault_of_ours_is_a_500(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(server.site.queue, "length", fail)
    with server.client() as client:
        assert client.get("/ready").status_code == 500
    found = value(scraped(server), "http_requests_total", method="GET", route="/ready",
                  status="500")  # fmt: skip
    assert found == 1


def test_error_types_stay_few(settings: Settings) -> None:
    metrics = Metrics(settings)
    for n in range(1000):
        metrics.completed(422, {"detail": [{"type": f"type-{n}", "loc": [], "msg": ""}]})
    (family,) = (each for each in metrics.registry.collect() if each.name == "lightfill_jobs")
    counted = [sample for sample in family.samples if sample.name.endswith("_total")]
    assert len(counted) == 65
    assert sum(sample.value for sample in counted) == 1000


def test_webhooks_by_outcome(settings: Settings, scripted: type[ScriptedEndpoint]) -> None:
    name, outcomes = "webhook_deliveries_total", ("delivered", "failed")
    patient = WebhookPolicy(retry_delays_s=(3600.0,))
    with receiving() as receiver, running(settings, webhooks=patient) as server:
        receiver.answer = lambda count: 503 if count == 1 else 200
        run_to_end(server, "go", fal_webhook=receiver.url)
        run_to_end(server, "go", fal_webhook=receiver.url)
        while not all(value(scraped(server), name, outcome=outcome) for outcome in outcomes):
            time.sleep(0.01)
        samples = scraped(server)
    assert [value(samples, name, outcome=outcome) for outcome in outcomes] == [1, 1]
    assert value(samples, "webhooks_pending") == 1


def test_what_the_server_is(server: RunningServer) -> None:
    samples = scraped(server)
    (labels,) = (dict(each) for name, each in samples if name == "lightfill_build_info")
    assert labels["version"] == __version__
    assert labels["device"] == "cpu"


def test_open_metrics_for_those_who_ask(server: RunningServer) -> None:
    accept = "application/openmetrics-text;version=1.0.0"
    with server.client() as client:
        reply = client.get("/metrics", headers={"accept": accept})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert "lightfill_queue_depth" in {family.name for family in open_metrics(reply.text)}


def test_without_its_database_it_tells_the_rest(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(server.site.queue, "load", fail)
    samples = scraped(server)
    assert value(samples, "database_up") == 0
    assert ("lightfill_queue_depth", frozenset()) not in samples
    assert ("lightfill_job_wait_seconds_count", frozenset()) in samples


def test_servers_of_one_process_count_for_themselves(
    settings: Settings, scripted: type[ScriptedEndpoint]
) -> None:
    other = replace(settings, data_dir=settings.data_dir / "other")
    with running(settings) as one, running(other) as two:
        run_to_end(one, "go")
        assert value(scraped(one), "jobs_total", status="200", error_type="") == 1
        assert value(scraped(two), "jobs_total", status="200", error_type="") == 0


@pytest.mark.parametrize("public", [False, True])
def test_a_key_is_asked_for_like_everywhere_unless_it_is_public(
    settings: Settings,
    scripted: type[ScriptedEndpoint],
    monkeypatch: pytest.MonkeyPatch,
    public: bool,
) -> None:
    async def nobody() -> None:
        raise HTTPException(401, "Authentication is required.")

    monkeypatch.setattr(metrics_routes, "find_caller", nobody)
    with running(replace(settings, public_metrics=public)) as server, server.client() as client:
        assert client.get("/metrics").status_code == (200 if public else 401)
