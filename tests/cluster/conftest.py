"""Ray's own warnings are its own; they come when it is imported."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray.cluster_utils
    import ray.serve  # noqa: F401
