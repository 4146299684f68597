"""docs/webhooks.md and docs/metrics.md: the recipe verifies real webhooks, the facts are true."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from running_server import ENDPOINT, RunningServer
from webhook_receiver import receiving

from lightfill.engine.server.webhooks import WebhookPolicy

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "webhooks.md").read_text(encoding="utf-8")
(RECIPE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_recipe_accepts_what_is_genuine_and_nothing_else(server: RunningServer) -> None:
    assert "http://127.0.0.1:8765" in RECIPE
    with receiving() as receiver, server.client() as client:
        client.post(
            f"/queue/{ENDPOINT}", json={"prompt": "go"}, params={"fal_webhook": receiver.url}
        )
        (told,) = receiver.wait_for(1)
        names: dict[str, Any] = {}
        exec(RECIPE.replace("http://127.0.0.1:8765", server.origin), names)
        is_genuine = names["is_genuine"]
        assert is_genuine(told.headers, told.content)
        assert not is_genuine(told.headers, told.content + b" ")
        assert not is_genuine({}, told.content)
        for name in ("request-id", "user-id", "timestamp", "signature"):
            header = f"x-fal-webhook-{name}"
            forged = {**told.headers, header: told.headers[header].replace("1", "2")}
            assert forged == dict(told.headers) or not is_genuine(forged, told.content)
        late = replace(told, headers={**told.headers, "x-fal-webhook-timestamp": "1700000000"})
        assert not is_genuine(late.headers, late.content)


def test_the_delivery_it_describes_is_the_policy() -> None:
    policy = WebhookPolicy()
    first, second, third, *others = policy.retry_delays_s
    assert f"after {first:g} s, {second:g} s, {third:g} s" in PAGE
    assert len(others) == 7
    assert f"within {policy.timeout_s:g} s" in PAGE
    assert f"sends {policy.places} at a time, at most {policy.places_each}" in PAGE
    assert (policy.jitter, policy.lease_s) == (0.1, 60), "a tenth, a minute"


def test_every_metric_is_documented_and_there(server: RunningServer) -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(lightfill_\w+)`", page, re.MULTILINE))
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in server.site.metrics.registry.collect()
    }
    assert {name for name in families if name.startswith("lightfill_")} == documented
