"""A language model that is open: its text, its answers, its likelihoods."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from service.chat import ChatTemplate
from service.engine.generation.cache_slots import CacheSlots
from service.engine.generation.constraint import Constraint, ConstraintCompiler
from service.engine.generation.engine import GenerationEngine
from service.engine.generation.events import PromptScore
from service.engine.generation.limits import GenerationLimits
from service.engine.generation.loop import GenerationLoop
from service.engine.generation.request import GenerateRequest
from service.engine.generation.score import Score
from service.engine.generation.sequence import Sequence
from service.engine.generation.stepper import Stepper
from service.errors import InvalidFields, TaskMismatch
from service.manifest.language import LanguageModelling
from service.runtime.session import Session
from service.runtime.step_session import StepSession
from service.text import TextTokenizer


class Language:
    """What a language model can do with text; made on the event loop that it belongs to."""

    def __init__(
        self,
        task: LanguageModelling,
        whole: Session,
        step: StepSession | None,
        tokenizer: TextTokenizer | None,
        limits: GenerationLimits,
        ended: Callable[[Sequence], None] = lambda sequence: None,
        template: ChatTemplate | None = None,
    ) -> None:
        """Ask for the cache's memory and start the engine; without a graph of a step there is none."""
        self.task = task
        self.limits = limits
        self.template = template
        """How a chat becomes one text, where the bundle says so."""
        self._whole = whole
        self._tokenizer = tokenizer
        self._compiler: ConstraintCompiler | None = None
        self._compiling = threading.Lock()
        self._engine: GenerationEngine | None = None
        if task.step is not None and step is not None:
            # A row that waits while others step has a place written behind its tokens: one more than a text may have.
            slots = CacheSlots(task.step.cache, limits.slots, limits.slot_tokens + 1)
            stepper = Stepper(step, task.step, task.vocabulary, slots)
            self._engine = GenerationEngine(GenerationLoop(stepper, tokenizer, limits, ended=ended))

    @property
    def engine_or_none(self) -> GenerationEngine | None:
        """What continues texts, if there is one."""
        return self._engine

    @property
    def engine(self) -> GenerationEngine:
        """What continues texts.

        Raises:
            TaskMismatch: the bundle has no graph of a step.
        """
        if self._engine is None:
            raise TaskMismatch("this model can score texts and not continue them: its bundle has no graph of a step")
        return self._engine

    @property
    def tokenizer(self) -> TextTokenizer:
        """What turns text into tokens and back.

        Raises:
            TaskMismatch: the bundle has none.
        """
        if self._tokenizer is None:
            raise TaskMismatch("this model has no tokenizer: send token ids")
        return self._tokenizer

    def compile(
        self,
        *,
        json_schema: dict[str, Any] | bool | None = None,
        json_object: bool = False,
        regex: str | None = None,
        choice: list[str] | None = None,
        grammar: str | None = None,
    ) -> Constraint:
        """Compile the one constraint that is given. Takes milliseconds, the first time about a second; any thread may.

        Raises:
            InvalidFields: it is wrong, none or several are given, or the model has no end of text.
            TaskMismatch: the bundle has no tokenizer.
        """
        given = [json_schema is not None, json_object, regex is not None, choice is not None, grammar is not None]
        if sum(given) != 1:
            raise InvalidFields("one of json_schema, json_object, regex, choice, grammar is needed", field="constraint")
        compiler = self._constraints()
        if regex is not None:
            return compiler.regex(regex)
        if choice is not None:
            return compiler.choice(choice)
        if grammar is not None:
            return compiler.grammar(grammar)
        return compiler.json_schema({"type": "object"} if json_schema is None else json_schema)

    async def score(
        self,
        tokens: tuple[int, ...],
        *,
        top: int = 0,
        start: int = 1,
        caller: str = "",
        priority: int = 0,
        deadline_seconds: float | None = None,
    ) -> PromptScore:
        """Return how likely each token of a text is, from its token `start` on, with `top` alternatives.

        Raises:
            InvalidFields: the text is empty or too long, or a token is unknown.
            Overloaded: too many wait already.
            DeadlinePassed: its turn did not come in time.
            ModelFailed: the model could not be run.
            ModelNotReady: the model is being unloaded.
        """
        request = GenerateRequest(
            tokens,
            max_tokens=0,
            prompt_logprobs=top,
            scored_from=start,
            caller=caller,
            priority=priority,
            deadline_seconds=deadline_seconds,
        )
        if self._engine is None:
            request.check(self.task.vocabulary, self.limits.slot_tokens)
            return await asyncio.to_thread(self._score_whole, request)
        async with self._engine.submit(request) as stream:
            async for event in stream:
                if event.error is not None:
                    raise event.error
                assert event.prompt is not None, "the only event of a request that only scores"
                return event.prompt
        raise AssertionError("a stream ends with its last event")

    async def drain(self) -> None:
        """Take no more requests, and wait until all have their answers."""
        if self._engine is not None:
            await self._engine.drain()

    async def close(self) -> None:
        """Give up what has no answer yet."""
        if self._engine is not None:
            await self._engine.close()

    def _score_whole(self, request: GenerateRequest) -> PromptScore:
        ids = np.array(request.prompt, np.int64)
        logits = self._whole.run({self.task.tokens: ids[None]}, [self.task.logits])[self.task.logits][0]
        score = Score(ids, request.scored_from, request.prompt_logprobs or 0)
        columns = score.columns(0, len(ids))
        score.take(columns.start, logits[columns.start :])
        return score.told()

    def _constraints(self) -> ConstraintCompiler:
        with self._compiling:
            if self._compiler is None:
                end = self.tokenizer.end_of_text
                if end is None:
                    raise InvalidFields("a constraint needs a model whose tokenizer has an end of text")
                self._compiler = ConstraintCompiler(self.tokenizer.json, self.task.vocabulary, end)
            return self._compiler
