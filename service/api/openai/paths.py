"""Which paths answer errors as OpenAI's clients expect them."""

import re

_PATH = re.compile(r"/v1/(completions|chat/completions|models(/[^/]+(/(score|tokenize|detokenize))?)?)/?")


def is_openai(path: str) -> bool:
    """Tell whether a path is one of those that OpenAI's clients call, or stands beside them."""
    return _PATH.fullmatch(path) is not None
