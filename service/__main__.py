"""`ddl-serve` or `python -m service`: read the settings, take the port, serve, and drain when told to stop."""

import logging
import os
import sys
from collections.abc import Sequence

from service.app import create_app
from service.errors import RepositoryEmpty
from service.logs import configure_logs
from service.server import EXIT_FAILED, listen, serve
from service.settings import InvalidSettings, load_settings

EXIT_SETTINGS = 2

_logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        0 after every request in flight was answered, 1 if the service could not start or requests were cut off,
        2 if a setting is wrong or there is nothing to serve.
    """
    try:
        settings = load_settings(sys.argv[1:] if arguments is None else arguments)
        configure_logs(settings.log_level, settings.log_format)
        app = create_app(settings)
        port, flag = settings.grpc_port, "--grpc-port"
        try:
            if port > 0:
                listen(settings, port).close()  # taken again when the models are loaded
            port, flag = settings.port, "--port"
            listener = listen(settings, port)
        except OSError as error:
            where = f"{settings.host} port {port}"
            return _fail(f"cannot listen on {where}: {error.strerror}; set --host or {flag}", EXIT_FAILED)
        return serve(app, settings, listener, _say)
    except InvalidSettings as error:
        return _fail(str(error), EXIT_SETTINGS)
    except RepositoryEmpty as error:
        return _fail(f"nothing to serve: {error}; set --repository or DDL_REPOSITORY", EXIT_SETTINGS)


def _say(text: str) -> None:
    """Print, for people; where that is not possible (a full disk, a closed pipe) the service serves all the same."""
    try:
        print(text, flush=True)
    except OSError as error:
        _logger.warning("standard output cannot be written", extra={"fields": {"reason": error.strerror}})
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what is left in the buffer would fail again at the end


def _fail(message: str, code: int) -> int:
    print(f"ddl-serve: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
