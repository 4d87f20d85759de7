"""Everything that can go wrong, in the words of the domain; no HTTP numbers (those are in `api/problems.py`).

ServiceError
├── BundleError
│   ├── BundleCorrupt          a file's checksum differs
│   │   └── BundleIncomplete   a file is missing, perhaps it is still being copied
│   ├── BundleInvalid          the manifest or the graph does not follow the format
│   ├── SignatureInvalid       nobody who is trusted has signed it
│   └── BundleDisagrees        the golden samples do not come out as recorded
├── RepositoryEmpty            there is nothing to serve
├── StoreFailed                the store of the bundles cannot be read, or the cache not be written
├── ConfigInvalid              a file of the operator's in the repository does not follow its format
├── UnknownModel, UnknownVersion, UnknownAudit
├── ModelNotReady
├── LoadFailed                 the model could not be loaded on demand
├── ControlRefused             models are not loaded and unloaded on demand here
├── MemoryLimit                the model would take more memory than is left for models
├── ProviderUnavailable        the runtime cannot use the device
├── ModelFailed                the runtime could not run the graph
├── InvalidRequest             the request is not well formed
│   └── InvalidImage           the image cannot be read
├── UnprocessableRequest       well formed, but it does not fit this model
│   ├── InvalidFields          a field is missing, unknown or of a wrong type
│   ├── InvalidTensor          name, datatype, shape or values
│   ├── UnknownQuantity, QuantityNotDefined
│   ├── BadSelection, BadIntervention
│   └── InputTooLong
├── RequestTooLarge, ResultTooLarge
├── UnsupportedMedia
├── CaptureUnavailable         the bundle has no gate outputs
├── TaskMismatch               the model does another task
├── Overloaded                 the queue is full
│   └── Busy                   no trace can be taken on now
├── Unauthenticated            who asks? no key or token, or not a valid one
├── Forbidden                  the caller lacks the scope
├── RateLimited                the caller asks too often
│   └── QuotaExhausted         the caller's requests of the day are used up
├── DeadlinePassed             the caller's time was over before its turn came
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


class BundleIncomplete(BundleCorrupt):
    """A file of the bundle is missing; perhaps it is still being copied."""


class BundleInvalid(BundleError):
    """The manifest or the graph does not follow the bundle format."""


class SignatureInvalid(BundleError):
    """The bundle bears no signature of a trusted key, or its files are not those that were signed."""


class BundleDisagrees(BundleError):
    """The graph does not reproduce the golden samples."""


class RepositoryEmpty(ServiceError):
    """The repository does not exist, or holds no bundle."""


class StoreFailed(ServiceError):
    """The store of the bundles cannot be read, or what it holds cannot be kept here."""


class ConfigInvalid(ServiceError):
    """A model's `config.toml`, or the repository's `aliases.toml`, does not follow its format."""


class UnknownModel(ServiceError):
    """No model of this name is in the repository."""


class UnknownVersion(ServiceError):
    """The model has no such version."""


class UnknownAudit(ServiceError):
    """There is no such audit, or it has no such file."""


class ModelNotReady(ServiceError):
    """The model is known, but it is not loaded."""


class LoadFailed(ServiceError):
    """The model could not be loaded on demand; what answered before still does."""


class ControlRefused(ServiceError):
    """Models are not loaded and unloaded on demand in this mode of control."""


class MemoryLimit(ServiceError):
    """The model would take more memory than is left for models."""


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


class BadIntervention(UnprocessableRequest):
    """An intervention names a site or position that does not exist, or wants what a gate cannot do."""


class InputTooLong(UnprocessableRequest):
    """The input has more positions than the service traces."""


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


class Busy(Overloaded):
    """Every worker for traces is busy, and the caller does not want to wait or the queue is full."""


class Unauthenticated(ServiceError):
    """No credentials came where they are needed, or they are not valid."""


class Forbidden(ServiceError):
    """The caller is known, but may not do this."""


class RateLimited(ServiceError):
    """The caller asks more often than it may."""


class QuotaExhausted(RateLimited):
    """The caller has used up its requests of the day."""


class DeadlinePassed(ServiceError):
    """The time that the caller gave was over before its turn came."""


class CallerGone(ServiceError):
    """The caller hung up before its turn came."""
