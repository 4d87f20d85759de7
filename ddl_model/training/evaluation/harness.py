"""Adapter for EleutherAI's lm-evaluation-harness (extra `lm-eval`): its tasks on a checkpoint of ours.

After `import ddl_model.training.evaluation.harness` the harness knows the model `ddl`, with the argument `checkpoint`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from tqdm import tqdm

from ddl_model.checkpoint import build_model, read_checkpoint
from ddl_model.language_model import LanguageModel
from ddl_model.training.errors import DataError
from ddl_model.training.evaluation.generate import Sampling, generate
from ddl_model.training.evaluation.held_out import DEFAULT_SEQUENCE_LENGTH
from ddl_model.training.text.tokenizer import end_of_text, parse_tokenizer

Request = tuple[tuple[str, str], list[int], list[int]]


@register_model("ddl")
class DeltaHarness(TemplateLM):  # type: ignore[misc]
    """A language model of ours behind the harness's interface.

    Every sequence begins with the end-of-text token, as documents did in training. What is longer than `max_length`
    loses its beginning.
    """

    def __init__(
        self,
        checkpoint: str,
        batch_size: int | str = 8,
        device: str | None = "cpu",
        max_length: int | None = None,
        max_gen_toks: int = 128,
        tokenizer: str | None = None,
        **_: Any,
    ) -> None:
        """Load a checkpoint, or the newest one of a run folder; `tokenizer` replaces its `tokenizer.json`.

        Raises:
            DataError: the checkpoint is of no language model, or has no tokenizer.
            CheckpointError: it cannot be loaded.
        """
        super().__init__()
        loaded = read_checkpoint(Path(checkpoint))
        model = build_model(loaded)
        if not isinstance(model, LanguageModel):
            raise DataError(f"{checkpoint} is no language model, and the harness's tasks are about language")
        content = Path(tokenizer).read_text(encoding="utf-8") if tokenizer else loaded.tokenizer
        if not content:
            raise DataError(f"{checkpoint} has no tokenizer.json: name one with the argument tokenizer")
        self._device = torch.device(device or "cpu")
        self.model = model.eval().to(self._device)
        self._tokenizer = parse_tokenizer(content, "tokenizer.json")
        trained = loaded.training.get("config", {}).get("data", {}).get("sequence_length")
        self.max_length = int(max_length or trained or DEFAULT_SEQUENCE_LENGTH)
        self.max_gen_toks = max_gen_toks
        self._batch_size = 8 if batch_size == "auto" else int(batch_size)

    @property
    def eot_token_id(self) -> int:
        """Id of the token between documents."""
        return end_of_text(self._tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """Name under which the harness caches requests."""
        return "ddl"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the ids of a text; no special token is added."""
        return list(self._tokenizer.encode(string, add_special_tokens=False).ids)

    def tok_decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return log-probability of each continuation, and whether it is what greedy decoding gives."""
        results: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index][1]) - len(requests[index][2]))
        starts = range(0, len(order), self._batch_size)
        for start in tqdm(starts, "scoring", unit="batch", disable=disable_tqdm):
            indices = order[start : start + self._batch_size]
            scores = self._score([(requests[index][1], requests[index][2]) for index in indices])
            results.update(zip(indices, scores, strict=True))
        return [results[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, each token seen once, in windows of `max_length`."""
        totals = []
        for request in tqdm(requests, "scoring", unit="text", disable=disable_tqdm):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.eot_token_id, self.max_length, context_len=1
            )
            pairs = [make_disjoint_window(window) for window in windows]
            scored = self._loglikelihood_tokens([(("", ""), c, t) for c, t in pairs], disable_tqdm=True)
            totals.append(sum(score for score, _ in scored))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context until one of the texts in `until`, the end of text, or `max_gen_toks` tokens."""
        answers = []
        for request in tqdm(requests, "generating", unit="text", disable=disable_tqdm):
            context, options = request.args
            until = options.get("until") or []
            stops = [until] if isinstance(until, str) else list(until)
            limit = int(options.get("max_gen_toks", self.max_gen_toks))
            temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
            room = max(1, self.max_length - limit)
            prompt = self._with_start(self.tok_encode(context))[-room:]
            end = self.eot_token_id

            def is_over(ids: list[int], stops: list[str] = stops, end: int = end) -> bool:
                return ids[-1] == end or any(stop in self.tok_decode(ids) for stop in stops)

            text = self.tok_decode(generate(self.model, prompt, limit, Sampling(temperature), is_over))
            for stop in stops:
                text = text.partition(stop)[0]
            answers.append(text)
        return answers

    def _with_start(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == [self.eot_token_id] else [self.eot_token_id, *ids]

    @torch.inference_mode()
    def _score(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        rows = [self._with_start(context) + continuation for context, continuation in pairs]
        rows = [row[-(self.max_length + 1) :] for row in rows]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.int64, device=self._device)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        log_probabilities: Tensor = self.model(ids[:, :-1]).float().log_softmax(-1)
        scores = []
        for number, (row, (_, continuation)) in enumerate(zip(rows, pairs, strict=True)):
            count = min(len(continuation), len(row) - 1)
            wanted = ids[number, len(row) - count : len(row)]
            predicted = log_probabilities[number, len(row) - 1 - count : len(row) - 1]
            total = predicted.gather(1, wanted.unsqueeze(1)).sum()
            scores.append((float(total), bool((predicted.argmax(-1) == wanted).all())))
        return scores


def run_tasks(
    checkpoint: Path, tasks: Sequence[str], include_path: Path | None, limit: int | None, device: str
) -> dict[str, dict[str, Any]]:
    """Return the harness's results by task; `include_path` is a folder with task files of one's own.

    Raises:
        DataError: a task is unknown, or its data cannot be had.
    """
    model = DeltaHarness(str(checkpoint), device=device)
    path = str(include_path) if include_path else None
    manager = TaskManager(include_path=path, include_defaults=False)
    if not set(tasks) <= set(manager.all_tasks):  # not all one's own: read the harness's list, which takes a while
        manager = TaskManager(include_path=path)
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise DataError(f"the harness knows no task {', '.join(unknown)}: `lm_eval ls tasks` lists them")
    try:
        results = lm_eval.simple_evaluate(model=model, tasks=list(tasks), task_manager=manager, limit=limit)
    except OSError as error:
        raise DataError(f"the data of {', '.join(tasks)} cannot be had: {error}") from error
    found: dict[str, dict[str, Any]] = results["results"]
    return found
