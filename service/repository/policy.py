"""Which versions of a model are served."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_LATEST = re.compile(r"latest(?:[ :]([1-9][0-9]{0,3}))?")
_FORMS = "`latest`, `latest 2`, `all`, or version numbers such as [1, 3]"


@dataclass(frozen=True)
class VersionPolicy:
    """The newest `count` versions, all of them, or those in `numbers`."""

    kind: Literal["latest", "all", "specific"] = "latest"
    count: int = 1
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Write the policy as it is configured."""
        if self.kind == "specific":
            return ", ".join(str(number) for number in self.numbers)
        return self.kind if self.kind == "all" or self.count == 1 else f"latest {self.count}"

    def candidates(self, versions: Iterable[int]) -> list[int]:
        """Return the versions that may be served, newest first."""
        chosen = [number for number in versions if self.kind != "specific" or number in self.numbers]
        return sorted(chosen, reverse=True)

    def is_enough(self, answering: int) -> bool:
        """Tell whether no further candidate is needed: one that is refused makes way for the next older one."""
        return self.kind == "latest" and answering >= self.count


def parse_policy(value: Any) -> VersionPolicy:
    """Read a policy as people write it.

    Raises:
        ValueError: it is none of the forms.
    """
    if isinstance(value, VersionPolicy):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return VersionPolicy("specific", numbers=_numbers(value))
    text = value.strip() if isinstance(value, str) else ""
    if text == "all":
        return VersionPolicy("all")
    if match := _LATEST.fullmatch(text):
        return VersionPolicy("latest", int(match[1] or 1))
    if re.fullmatch(r"[0-9 ,]*[0-9][0-9 ,]*", text):
        return VersionPolicy("specific", numbers=_numbers([int(part) for part in re.findall(r"[0-9]{1,9}", text)]))
    raise ValueError(f"a version policy is {_FORMS}")


def _numbers(values: Sequence[Any]) -> tuple[int, ...]:
    if not values or any(isinstance(value, bool) or not isinstance(value, int) or value < 1 for value in values):
        raise ValueError(f"a version policy is {_FORMS}; versions count from 1")
    return tuple(sorted(set(values)))
