"""From the service's settings to the repository's options."""

from service.engine.job import BatchLimits
from service.repository.config import Serving
from service.repository.generation import Generation
from service.repository.opening import Device
from service.repository.options import Options
from service.repository.policy import parse_policy
from service.runtime.cores import usable_cores
from service.runtime.session import CPU, CUDA
from service.settings import InvalidSettings, Settings
from service.signing.minisign import MalformedKey
from service.signing.trust import TrustedKeys, read_trusted_keys


def options_from(settings: Settings) -> Options:
    """Translate settings.

    Raises:
        InvalidSettings: they do not fit each other, or a key cannot be read.
    """
    return Options(
        device=Device(CUDA if settings.provider == "cuda" else CPU, settings.kernel_library),
        defaults=_serving(settings),
        control=settings.control,
        poll_seconds=settings.poll_seconds,
        startup_models=() if settings.startup_models == ("none",) else settings.startup_models,
        trusted=_trusted(settings),
        memory_limit_bytes=settings.memory_limit_bytes,
        load_seconds=settings.load_seconds,
        unload_seconds=settings.unload_seconds,
        load_threads=settings.load_threads,
        cache=settings.cache_folder,
        gates_live_share=settings.gates_live_share,
    )


def _serving(settings: Settings) -> Serving:
    try:
        policy = parse_policy(settings.version_policy)
    except ValueError as error:
        raise InvalidSettings(f"version_policy={settings.version_policy!r}: {error}") from error
    try:
        limits = BatchLimits(
            max_rows=settings.batch_rows,
            max_wait_ms=settings.batch_wait_ms,
            preferred_rows=settings.batch_preferred,
            bucket_rows=settings.batch_buckets,
            queue_limit=settings.queue_limit,
            default_timeout_ms=settings.batch_timeout_ms,
            priorities=settings.priorities,
            instances=settings.instances,
        )
    except ValueError as error:
        raise InvalidSettings(f"batching: {error}") from error
    return Serving(policy, settings.threads or usable_cores(), limits, settings.warm_up, _generation(settings))


def _generation(settings: Settings) -> Generation:
    share = settings.memory_limit_bytes // 4 if settings.memory_limit_bytes else Generation.cache_bytes
    return Generation(
        slots=settings.generation_slots,
        slot_tokens=settings.generation_tokens,
        cache_bytes=settings.generation_cache_bytes or min(share, Generation.cache_bytes),
        step_tokens=settings.generation_step_tokens,
        queue_limit=settings.generation_queue_limit,
        queue_tokens=settings.generation_queue_tokens,
        patience_seconds=settings.generation_patience_seconds,
    )


def _trusted(settings: Settings) -> TrustedKeys | None:
    if settings.signatures == "off":
        if settings.trusted_keys:
            raise InvalidSettings("trusted_keys are given, but signatures=off: set signatures=required")
        return None
    try:
        trusted = read_trusted_keys(settings.trusted_keys)
    except MalformedKey as error:
        raise InvalidSettings(f"trusted_keys: {error}") from error
    if not len(trusted):
        raise InvalidSettings("signatures=required needs trusted_keys: without any, every bundle would be refused")
    return trusted
