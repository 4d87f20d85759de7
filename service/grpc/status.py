"""Errors as gRPC tells them: the code that stands for the HTTP status of the same error."""

import grpc

from service.api.problems import INTERNAL, KINDS, URN
from service.errors import ServiceError

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Metadata = tuple[tuple[str, str], ...]


def http_status(error: Exception) -> int:
    """Return the status that this error has under `/v2`; a surprise is 500."""
    return KINDS[type(error)].status_at("/v2") if isinstance(error, ServiceError) else INTERNAL.status


def trailers(error: Exception) -> Metadata:
    """Return what programs may want to know of an error: its stable name, and when to try again."""
    kind = KINDS[type(error)] if isinstance(error, ServiceError) else INTERNAL
    found = [("problem-type", URN + kind.slug)]
    if isinstance(error, ServiceError) and "retry_after_seconds" in error.details:
        found.append(("retry-after", str(error.details["retry_after_seconds"])))
    return tuple(found)
