"""Any history of a folder: what answers is what the rules say, and nothing is opened or kept too often."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ModelNotReady, UnknownModel
from service.repository import Repository
from tests.service.repository.running import answer, flip_a_bit, running
from tests.service.tiny_bundle import BundleMaker

MAKER = BundleMaker()
STEPS = st.lists(st.tuples(st.sampled_from(["good", "bad", "remove"]), st.integers(1, 3)), min_size=1, max_size=7)


def apply(root: Path, step: str, version: int) -> None:
    """Change a folder as an operator would, in one go."""
    shutil.rmtree(root / "tiny" / str(version), ignore_errors=True)
    if step != "remove":
        MAKER.write(root, version=str(version), after=flip_a_bit if step == "bad" else lambda _: None)


def served(repository: Repository) -> str | None:
    try:
        return repository.get("tiny").version
    except (ModelNotReady, UnknownModel):
        return None


async def follow(steps: list[tuple[str, int]], root: Path) -> None:
    MAKER.write(root, "other")  # so that the repository is never empty
    good: dict[int, bool] = {}
    answering: int | None = None
    async with running(root) as repository:
        for step, version in steps:
            apply(root, step, version)
            if step == "remove":
                good.pop(version, None)
            else:
                good[version] = step == "good"
            await repository.refresh()
            # Bad files under the version that answers change nothing: it goes on with what it was opened from.
            fit = [n for n, is_good in good.items() if is_good or n == answering]
            answering = max(fit, default=None)
            assert served(repository) == (None if answering is None else str(answering)), (step, version)
            if answering is not None:
                await answer(repository)
        await repository._models["other"].closed()
        if "tiny" in repository._models:
            await repository._models["tiny"].closed()
        loaded = [entry.loaded for entry in repository.entries() if entry.loaded is not None]
        assert repository._loader.budget.used_bytes == sum(model.memory_bytes for model in loaded)
    assert repository._loader.budget.used_bytes == 0


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_the_newest_good_version_answers_whatever_happened_before(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(follow(steps, Path(folder)))
