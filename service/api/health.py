"""Is the service alive, is it ready, what has it counted?"""

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.problems import Kind, problem
from service.api.state import state_of

NOT_READY = Kind(503, "not-ready", "The service is not ready")


class Live(Answer):
    """The process answers."""

    live: bool


class Ready(Answer):
    """Every model of the repository answers."""

    ready: bool


async def live(request: Request) -> Response:
    """Liveness: the process answers requests.

    It says nothing of the models; restart the process when this fails.
    """
    return json_response({"live": True})


async def ready(request: Request) -> Response:
    """Readiness: every model that was there at the start is loaded and has reproduced its golden samples.

    503 with the reasons while models load, if one was refused, and from the moment that the service is told to stop.
    Models that are ready answer all the same. A model that comes later and is refused changes nothing.
    """
    state = state_of(request)
    waiting = state.repository.unready()
    if state.draining:
        return problem(request, NOT_READY, "the service is shutting down", {"ready": False, "models": waiting}, {})
    if waiting or not state.loaded:
        detail = "; ".join(f"{name}: {reason}" for name, reason in waiting.items()) or "the models are being loaded"
        return problem(request, NOT_READY, detail, {"ready": False, "models": waiting}, {})
    return json_response({"ready": True})


async def metrics(request: Request) -> Response:
    """Metrics in the text format of Prometheus, or OpenMetrics where it is asked for."""
    body, media_type = state_of(request).metrics.render(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": media_type})
