"""What goes wrong reaches fal's JavaScript clients as their own errors."""

from running_server import RunningServer, running

from lightfill.engine.fal.settings import Settings

from .conftest import FILES, NEW, JavaScript, Node


def test_wrong_arguments_are_a_validation_error_of_each_field(
    javascript: JavaScript, demo_server: RunningServer
) -> None:
    wrong = {"image_url": "data:,x", "prompt": "x", "strength": 7}
    told = javascript.report("errors", demo_server, input=wrong, field="mask_url")
    for each in told.values():
        assert (each["name"], each["status"]) == ("ValidationError", 422)
        assert each["isApiError"]
        (field,) = each["fields"]
        assert (field["loc"], field["type"]) == (["body", "mask_url"], "missing")
        assert {item["loc"][-1] for item in each["body"]["detail"]} == {"mask_url", "strength"}


def test_a_request_that_fails_is_its_own_error(
    javascript: JavaScript, server: RunningServer
) -> None:
    told = javascript.report("errors", server, input={"prompt": "refuse"}, field="mask_url")
    for each in told.values():
        assert (each["isValidation"], each["status"]) == (True, 422)
        assert each["fields"][0]["msg"] == "is not there; pass one"


def test_a_fault_is_an_api_error_and_tells_nothing(
    javascript: JavaScript, server: RunningServer
) -> None:
    told = javascript.report("errors", server, input={"prompt": "break"}, field="mask_url")
    for each in told.values():
        assert (each["name"], each["status"]) == ("ApiError", 500)
        assert each["body"] == {"detail": "Internal Server Error"}


def test_a_start_timeout_is_the_user_s_and_not_repeated(node: Node, settings: Settings) -> None:
    javascript = JavaScript(node, NEW, "middleware")
    with running(Settings(data_dir=settings.data_dir, port=0, workers=0)) as server:
        told = javascript.report(
            "errors", server, input={"prompt": "x"}, field="prompt", startTimeout=1.1
        )
        assert server.site.queue.length() == 0
    for each in told.values():
        assert (each["status"], each["isUserTimeout"]) == (504, True)
        assert each["timeoutType"] == "user"
        assert each["body"]["error_type"] == "startup_timeout"
        assert each["requestId"]


def test_another_endpoint_is_a_404(node: Node, server: RunningServer) -> None:
    for package in ("@fal-ai/client", "@fal-ai/serverless-client"):
        told = JavaScript(node, package, "middleware").report("unknown", server)
        assert told["submit"]["status"] == told["status"]["status"] == 404
        assert "lightfill runs" in told["submit"]["body"]["detail"]


def test_a_stream_of_wrong_arguments_is_a_validation_error(
    javascript: JavaScript, server: RunningServer
) -> None:
    told = javascript.report("failing_stream", server, input={"prompt": "x"})
    assert told["events"] == []
    assert (told["outcome"]["name"], told["outcome"]["status"]) == ("ValidationError", 422)


def test_a_stream_of_a_request_that_fails_ends_with_its_error(
    javascript: JavaScript, server: RunningServer
) -> None:
    told = javascript.report("failing_stream", server, input={**FILES, "prompt": "refuse"})
    status, last = told["events"][-2:]
    assert (status["status"], status["error_type"]) == ("COMPLETED", "value_error")
    assert last == told["outcome"]["value"]
    assert last["detail"][0]["msg"] == "is not there; pass one"
