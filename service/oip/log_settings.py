"""The logging extension: which lines the service writes, changed while it runs."""

import logging
from collections.abc import Mapping

from service.errors import InvalidFields

LogSettings = dict[str, str | bool | int]

_FIXED = {"log_file": "where lines go", "log_format": "the format of lines"}
_FLAGS = ("log_info", "log_warnings", "log_errors")


def read_log_settings(log_format: str) -> LogSettings:
    """Return the settings; `log_verbose_level` is 1 while debug lines are written, and an empty file standard error."""
    level = logging.getLogger().level
    return {
        "log_file": "",
        "log_info": level <= logging.INFO,
        "log_warnings": level <= logging.WARNING,
        "log_errors": True,
        "log_verbose_level": int(level <= logging.DEBUG),
        "log_format": log_format,
    }


def change_log_settings(wanted: Mapping[str, object], log_format: str) -> LogSettings:
    """Change the least level that is logged and return the settings; what is not named stays.

    Raises:
        InvalidFields: a setting is unknown, cannot be changed or has a wrong value, or a level should be silent while
            one below it is not.
    """
    settings = read_log_settings(log_format)
    for name, value in wanted.items():
        _check(name, value, settings)
        settings[name] = value  # type: ignore[assignment] # checked
    verbose, info, warnings, errors = (bool(settings[name]) for name in ("log_verbose_level", *_FLAGS))
    chosen = [verbose, info, warnings, errors]
    if not errors or sorted(chosen) != chosen:
        raise _invalid("log_verbose_level, log_info, log_warnings, log_errors", "each needs those that follow it")
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    logging.getLogger().setLevel(levels[chosen.index(True)])
    return read_log_settings(log_format)


def _check(name: str, value: object, settings: LogSettings) -> None:
    if name in _FIXED:
        if value != settings[name]:
            raise _invalid(name, f"{_FIXED[name]} is set when the service starts")
    elif name in _FLAGS:
        if not isinstance(value, bool):
            raise _invalid(name, "true or false is needed")
    elif name == "log_verbose_level":
        if type(value) is not int or not 0 <= value <= 1:
            raise _invalid(name, "0 or 1 is needed")
    else:
        raise _invalid(name[:64], f"unknown; known: {', '.join(settings)}")


def _invalid(field: str, message: str) -> InvalidFields:
    return InvalidFields(f"{field}: {message}", errors=[{"field": field, "message": message}])
