"""Answers that follow a schema, a pattern, a grammar or a list, whatever the model would rather say."""

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.engine.generation.constraint import Constraint, ConstraintCompiler
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.errors import InvalidFields
from tests.service.generation.conftest import Words
from tests.service.generation.loops import TEXT, Engine

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": [1, 22, 333]}, "b": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler(words: Words) -> ConstraintCompiler:
    assert words.tokenizer.end_of_text is not None
    return ConstraintCompiler(words.tokenizer.json, words.vocabulary, words.tokenizer.end_of_text)


def is_answer(text: str) -> bool:
    values = json.loads(text)
    return values.keys() == {"a", "b"} and values["a"] in (1, 22, 333) and all(type(b) is bool for b in values["b"])


CASES: dict[str, tuple[Callable[[ConstraintCompiler], Constraint], Callable[[str], Any]]] = {
    "schema": (lambda compiler: compiler.json_schema(SCHEMA), is_answer),
    "any JSON": (lambda compiler: compiler.json_schema({"type": "boolean"}), lambda text: text in ("true", "false")),
    "regex": (lambda compiler: compiler.regex(r"(ab|cd){2,3}é?"), lambda text: re.fullmatch(r"(ab|cd){2,3}é?", text)),
    "choice": (lambda compiler: compiler.choice(["ja", "nein\n", '"']), lambda text: text in ("ja", "nein\n", '"')),
    "grammar": (lambda compiler: compiler.grammar('start: "x" start "y" | "z"'), lambda text: "z" in text),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_follow_the_constraint(
    words: Words, compiler: ConstraintCompiler, case: str, temperature: float
) -> None:
    compile_it, fits = CASES[case]
    engine = Engine(words, slots=4, slot_tokens=64)
    sampling = SamplingParams(temperature=temperature, seed=4)
    constraint = compile_it(compiler)
    asked = [
        engine.ask(TEXT[:4], 48, sampling, constraint=constraint, n=3, ignore_end=False),
        engine.ask(TEXT[4:9], 48, sampling, constraint=constraint, ignore_end=False, min_tokens=40),
    ]
    free = engine.ask(TEXT[:6], 20)
    engine.finish()
    engine.check(free)
    for answer in asked:
        for choice in range(answer.request.n):
            if answer.events[choice][-1].finish == "stop":
                assert fits(answer.text(choice)), answer.text(choice)
    if case in ("schema", "any JSON", "choice"):
        assert all(events[-1].finish == "stop" for answer in asked for events in answer.events)


def test_the_same_seed_gives_the_same_constrained_text_in_any_company(
    words: Words, compiler: ConstraintCompiler
) -> None:
    sampling = SamplingParams(temperature=1.0, seed=11)
    texts = set()
    for company in (0, 3):
        engine = Engine(words, slots=4, slot_tokens=64)
        others = [engine.ask(TEXT[i : i + 5], 9) for i in range(company)]
        answer = engine.ask(TEXT[:4], 40, sampling, constraint=compiler.regex("[a-z]{5,30}"), ignore_end=False)
        engine.finish()
        engine.check(*others)
        texts.add(answer.text())
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("compile_it", "field"),
    [
        (lambda compiler: compiler.regex("(ab"), "regex"),
        (lambda compiler: compiler.regex("a" * 300_000), "regex"),
        (lambda compiler: compiler.json_schema({"type": "nonsense"}), "json_schema"),
        (lambda compiler: compiler.json_schema({"description": "x" * 300_000}), "json_schema"),
        (lambda compiler: compiler.grammar("start: nothing"), "grammar"),
        (lambda compiler: compiler.choice([]), "choice"),
        (lambda compiler: compiler.choice(["a", ""]), "choice"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    compiler: ConstraintCompiler, compile_it: Callable[[ConstraintCompiler], Constraint], field: str
) -> None:
    with pytest.raises(InvalidFields, match=f"^{field} ") as refusal:
        compile_it(compiler)
    assert refusal.value.details["field"] == field
    assert "\n" not in str(refusal.value)


def test_a_constraint_says_itself_when_an_answer_ends(compiler: ConstraintCompiler) -> None:
    with pytest.raises(InvalidFields, match="ignore_end"):
        GenerateRequest((1,), constraint=compiler.choice(["a"]), ignore_end=True)


def test_threads_may_compile_at_once(compiler: ConstraintCompiler) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                compiler.json_schema(SCHEMA).begin().allowed()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
