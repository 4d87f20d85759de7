"""Routes that ask the guard before anything of the request is looked at."""

from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from service.api.state import state_of
from service.security.caller import Scope


@cache
def guarded(needed: Scope) -> type[APIRoute]:
    """Return a kind of route whose callers need the scope `needed`."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def admitted(request: Request) -> Response:
                client = request.client
                admit = state_of(request).guard.admit
                request.state.caller = admit(_lookup(request), needed, client.host if client else "")
                return await handle(request)

            return admitted

    return Guarded


def _lookup(request: Request) -> Callable[[bytes], bytes | None]:
    raw: list[tuple[bytes, bytes]] = request.scope["headers"]
    return lambda name: next((value for key, value in raw if key == name), None)
