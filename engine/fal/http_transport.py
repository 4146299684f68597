"""The transport to a lightfill server elsewhere: fal's protocol over HTTP (sections 4 to 8)."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf
from typing import Any
from urllib.parse import quote

import httpx2

from ... import __version__
from ..errors import InvalidInput
from .app_id import AppId
from .client_errors import FalClientConnectionError, checked
from .http_uploads import Uploads
from .job import encoded_arguments
from .local_inputs import replaced, upload_of
from .reply import Reply
from .transport import TIMEOUT_HEADER, Order
from .validation import error_body

_CONNECT_S = 30.0
_KEPT_ALIVE_S = 4.0
"""Less than uvicorn's five seconds: a request on a connection that is being closed is lost."""
_WORTH_A_STREAM_S, _STREAM_S = 1.0, 10.0
"""Waiting for less is sleep. A stream is left before its keep-alive comments, every 15 s, begin."""
_PAUSE_S = 0.1
_JSON = {"content-type": "application/json"}


class HttpTransport:
    """`Transport` to the server at `base_url`; connections are kept between calls.

    key: "id:secret", sent to that server only. timeout_s: how long one call may take to answer.
    """

    def __init__(self, base_url: str, key: str | None, timeout_s: float) -> None:
        self._base = base_url
        self._timeout_s = timeout_s
        headers = {"user-agent": f"lightfill/{__version__} (python)", "accept": "application/json"}
        if key is not None:
            headers["authorization"] = f"Key {key}"
        self._client = httpx2.Client(
            headers=headers,
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=_KEPT_ALIVE_S),
        )
        self._uploads = Uploads(base_url, self._ask)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def request_url(self, application: str, request_id: str) -> str:
        base = AppId.from_endpoint_id(application).base
        return f"{self._base}/queue/{quote(base)}/requests/{quote(request_id, safe='')}"

    def prepared(self, order: Order) -> Order:
        try:
            return replace(order, arguments=replaced(order.arguments, self._kept))
        except InvalidInput as error:
            checked(_refusal(error))
            raise

    def submit(self, order: Order, *, within: float = inf) -> Reply:
        try:
            content = encoded_arguments(order.arguments).encode()
        except InvalidInput as error:
            return _refusal(error)
        endpoint = "/".join(part.strip("/") for part in (order.application, order.path) if part)
        webhook = {} if order.webhook_url is None else {"fal_webhook": order.webhook_url}
        answer = self._ask(
            "POST", f"{self._base}/queue/{quote(endpoint)}", within=within, params=webhook,
            content=content, headers={**order.headers, **_JSON},
        )  # fmt: skip
        if not answer.is_success:
            return answer
        if "request_id" not in answer.body:
            raise self._other("answers a submit without a request_id, so it is no lightfill server")
        # Not the server's own URLs: it may know itself by another name than this caller does.
        url = self.request_url(order.application, answer.body["request_id"])
        here = {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
        return replace(answer, body={**answer.body, **here}, raw=None)

    def status(self, status_url: str, *, logs: bool, within: float = inf) -> Reply:
        return self._ask("GET", status_url, within=within, params={"logs": str(int(logs))})

    def result(self, response_url: str, *, within: float = inf) -> Reply:
        return self._ask("GET", response_url, within=within)

    def cancel(self, cancel_url: str, *, within: float = inf) -> Reply:
        return self._ask("PUT", cancel_url, within=within)

    def wait(self, status_url: str, seen: Reply, seconds: float) -> None:
        """A short wait is slept: callers poll, as fal_client does. A long one reads the stream."""
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            if left < _WORTH_A_STREAM_S:
                time.sleep(left)
            elif self._changes(status_url, seen, min(left, _STREAM_S)):
                return

    def upload(
        self,
        data: Iterable[bytes],
        content_type: str,
        file_name: str | None,
        expires_s: float | None,
    ) -> Reply:
        return self._uploads.store(data, content_type, file_name, expires_s)

    def _kept(self, value: Any, field: str) -> str:
        """The URL of a local value, stored on the server."""
        local = upload_of(value, field)
        with local.open() as pieces:
            stored = self.upload(pieces, local.content_type, local.file_name, None)
        return str(checked(stored).body["access_url"])

    def _changes(self, status_url: str, seen: Reply, seconds: float) -> bool:
        """Whether the request differs from `seen`, or changes within the seconds."""
        url, is_first = f"{status_url}/stream", True
        try:
            with self._client.stream(
                "GET", url, params={"logs": "0"}, timeout=httpx2.Timeout(seconds)
            ) as events:
                for line in events.iter_lines() if events.status_code == 200 else ():
                    if not line.startswith("data:"):
                        continue
                    if not is_first or _state(json.loads(line[5:])) != _state(seen.body):
                        return True
                    is_first = False
        except httpx2.ReadTimeout:
            return False
        except httpx2.TransportError:
            pass  # the next status tells what is wrong
        time.sleep(min(seconds, _PAUSE_S))  # there is no stream to be had, or it ended early
        return True

    def _ask(
        self,
        method: str,
        url: str,
        *,
        within: float = inf,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> Reply:
        """The reply; FalClientConnectionError if there is none of fal's protocol."""
        if not url.startswith(f"{self._base}/"):  # the key is this server's
            return Reply(404, {"detail": f"Path {url} not found; it is not at {self._base}"})
        seconds = min(self._timeout_s, within)
        timeout = httpx2.Timeout(seconds, connect=min(seconds, _CONNECT_S))
        try:
            response = self._client.request(
                method, url, headers=headers, timeout=timeout, **content
            )
        except httpx2.TimeoutException as error:
            raise FalClientConnectionError(
                f"{self._base} did not answer within {seconds:g} s; see whether it is overloaded",
                may_pass=TIMEOUT_HEADER not in (headers or {}),
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            may_pass = isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError)
            raise FalClientConnectionError(
                f"{self._base} cannot be reached ({str(error)[:200] or type(error).__name__}); "
                "start it with `lightfill serve`, or correct base_url",
                may_pass=may_pass,
            ) from error
        return self._read(response)

    def _read(self, response: httpx2.Response) -> Reply:
        text = response.text
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        if 300 <= response.status_code < 400:
            problem = f"redirects to {response.headers.get('location', 'nowhere')[:200]}"
        elif response.is_success and not isinstance(body, dict):
            problem = "answers without a JSON object, so it is no lightfill server"
        else:
            return Reply(response.status_code, body, dict(response.headers), raw=text)
        raise self._other(problem)

    def _other(self, problem: str) -> FalClientConnectionError:
        return FalClientConnectionError(f"{self._base} {problem}; correct base_url", may_pass=False)


def _refusal(error: InvalidInput) -> Reply:
    """What is wrong with the arguments before they are sent, as the server would say it."""
    headers = {**_JSON, "x-fal-request-id": "", "x-fal-billable-units": "0"}
    return Reply(*error_body(error), headers)


def _state(body: Mapping[str, Any]) -> tuple[Any, Any]:
    return body.get("status"), body.get("queue_position")
