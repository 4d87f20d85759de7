"""Open Inference Protocol: the logging extension."""

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.body import JSON, media_type, parse_json
from service.api.state import state_of
from service.oip.log_settings import change_log_settings, read_log_settings


class LogSettings(Answer):
    """Which lines are written; the file is empty for standard error."""

    log_file: str
    log_info: bool
    log_warnings: bool
    log_errors: bool
    log_verbose_level: int
    log_format: str


class LogSettingsChange(BaseModel):
    """What is to be changed; what is left out stays. File and format are chosen when the service starts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    log_file: str | None = None
    log_info: bool | None = None
    log_warnings: bool | None = None
    log_errors: bool | None = None
    log_verbose_level: int | None = None
    log_format: str | None = None


async def log_settings(request: Request) -> Response:
    """Which lines the service writes to its log."""
    return json_response(read_log_settings(state_of(request).settings.log_format))


async def change_logging(request: Request) -> Response:
    """Change which lines the service writes, until it ends or they are changed again.

    Levels build on each other: info needs warnings, warnings need errors, and errors are always written.
    """
    media_type(request, JSON)
    asked = parse_json(await request.body(), LogSettingsChange).model_dump(exclude_none=True)
    return json_response(change_log_settings(asked, state_of(request).settings.log_format))
