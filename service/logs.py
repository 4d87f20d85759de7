"""Structured logs: one line per event, `time level logger message key=value ...`, on standard error."""

import json
import logging
import re
import sys
from datetime import UTC, datetime

_BARE = re.compile(r"[A-Za-z0-9_./:@+-]+")


class LineFormatter(logging.Formatter):
    """Format a record as one line; the record's `fields` become `key=value`, quoted as JSON where needed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; line breaks inside a message or a traceback are escaped."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        message = record.getMessage()
        if not message.isprintable():
            message = json.dumps(message)
        pairs = [f"{key}={_value(value)}" for key, value in fields.items()]
        return " ".join([when, record.levelname, record.name, message, *pairs])


def configure_logs(level: str) -> None:
    """Send every logger of the process to standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The server's own life is told by our lines; of uvicorn only what is wrong is worth one.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # Lines of these show bytes of callers' images and forms.
    for chatty in ("PIL", "python_multipart"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.captureWarnings(True)


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
