"""Everything that can go wrong, in the words of the domain; no HTTP numbers (those are in `api/problems.py`).

ServiceError
├── BundleError
│   ├── BundleCorrupt          a file is missing or its checksum differs
│   ├── BundleInvalid          the manifest or the graph does not follow the format
│   └── BundleDisagrees        the golden samples do not come out as recorded
├── RepositoryEmpty            there is nothing to serve
├── UnknownModel, UnknownVersion
├── ModelNotReady
├── ProviderUnavailable        the runtime cannot use the device
├── ModelFailed                the runtime could not run the graph
├── InvalidRequest             the request is not well formed
│   └── InvalidImage           the image cannot be read
├── UnprocessableRequest       well formed, but it does not fit this model
│   ├── InvalidFields          a field is missing, unknown or of a wrong type
│   ├── InvalidTensor          name, datatype, shape or values
│   ├── UnknownQuantity, QuantityNotDefined
│   └── BadSelection
├── RequestTooLarge, ResultTooLarge
├── UnsupportedMedia
├── CaptureUnavailable         the bundle has no gate outputs
├── TaskMismatch               the model does another task
├── Overloaded                 the queue is full
└── CallerGone                 nobody waits for the answer any more
"""


class ServiceError(Exception):
    """Base of every error that the service raises on purpose; `str(error)` is fit for the caller's eyes."""

    def __init__(self, message: str, **details: object) -> None:
        """Keep the sentence for people and the details for programs."""
        super().__init__(message)
        self.details = details


class BundleError(ServiceError):
    """A bundle cannot be served."""


class BundleCorrupt(BundleError):
    """A file of the bundle is missing, or its bytes are not those that were exported."""


class BundleInvalid(BundleError):
    """The manifest or the graph does not follow the bundle format."""


class BundleDisagrees(BundleError):
    """The graph does not reproduce the golden samples."""


class RepositoryEmpty(ServiceError):
    """The repository does not exist, or holds no bundle."""


class UnknownModel(ServiceError):
    """No model of this name is in the repository."""


class UnknownVersion(ServiceError):
    """The model has no such version."""


class ModelNotReady(ServiceError):
    """The model is known, but it is not loaded."""


class ProviderUnavailable(ServiceError):
    """The runtime cannot use the device that was asked for."""


class ModelFailed(ServiceError):
    """The runtime could not run the graph."""


class InvalidRequest(ServiceError):
    """The request is not well formed."""


class InvalidImage(InvalidRequest):
    """The image cannot be read."""


class UnprocessableRequest(ServiceError):
    """The request is well formed, but it does not fit this model."""


class InvalidFields(UnprocessableRequest):
    """A field is missing, unknown or of a wrong type."""


class InvalidTensor(UnprocessableRequest):
    """A tensor has a wrong name, datatype, shape or value."""


class UnknownQuantity(UnprocessableRequest):
    """No quantity of this name exists."""


class QuantityNotDefined(UnprocessableRequest):
    """The quantity exists, but not under this model's update rule."""


class BadSelection(UnprocessableRequest):
    """The selection names layers, sublayers or positions that the model does not have."""


class RequestTooLarge(ServiceError):
    """The body is larger than the service reads."""


class ResultTooLarge(ServiceError):
    """The answer would be larger than the service writes."""


class UnsupportedMedia(ServiceError):
    """The body has a media type that this route does not read."""


class CaptureUnavailable(ServiceError):
    """The bundle was exported without gate outputs."""


class TaskMismatch(ServiceError):
    """The model does another task than this route is for."""


class Overloaded(ServiceError):
    """Too many requests wait already."""


class CallerGone(ServiceError):
    """The caller hung up before its turn came."""
