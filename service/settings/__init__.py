"""Settings of the service: a file, environment variables `DDL_*`, flags; the later ones win."""

from service.settings.fields import Settings
from service.settings.file import InvalidSettings
from service.settings.load import load_settings

__all__ = ["InvalidSettings", "Settings", "load_settings"]
