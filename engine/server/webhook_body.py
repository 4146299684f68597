"""What a webhook says (fal protocol, section 10)."""

import json
from typing import Any

from ..fal.job import as_json
from ..fal.outbox import Delivery


def webhook_body(delivery: Delivery) -> bytes:
    """The JSON that is posted: the output, fal's error, or why the output is not JSON."""
    # We never run a request again under another id: the gateway's is always its own.
    body: dict[str, Any] = {
        "request_id": delivery.request_id,
        "gateway_request_id": delivery.request_id,
    }
    if delivery.payload_error is not None:
        body |= {"status": "OK", "payload": None, "payload_error": delivery.payload_error}
    elif delivery.status_code < 400:
        body |= {"status": "OK", "payload": json.loads(delivery.result)}
    else:
        error = f"Invalid status code: {delivery.status_code}"
        body |= {"status": "ERROR", "error": error, "payload": json.loads(delivery.result)}
    return as_json(body).encode()
