"""Requests as values: frozen, checked when they are made, and silent about tokens."""

import pickle
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import numpy as np
import pytest

from qtoolkit import requests
from qtoolkit.errors import ConfigError
from qtoolkit.requests import (
    CompareRequest,
    EvaluateRequest,
    FindModelsRequest,
    PlanRequest,
    PublishRequest,
    QuantizeRequest,
    RecommendRequest,
    Request,
    RunTasksRequest,
    VerifyRequest,
    arguments_of,
)

REQUESTS = [one for one in vars(requests).values() if isinstance(one, type) and issubclass(one, Request)]


@pytest.mark.parametrize("request_class", REQUESTS, ids=lambda one: one.__name__)
def test_every_field_has_a_help_of_one_clause(request_class: type[Request]) -> None:
    for one in fields(request_class):
        text = one.metadata["help"]
        assert text and not text.removesuffix("...").endswith("."), one.name
        assert "\n" not in text


def test_a_request_cannot_be_changed() -> None:
    request = QuantizeRequest("m", "nf4")
    with pytest.raises(FrozenInstanceError):
        request.device = "cpu"  # type: ignore[misc]


@pytest.mark.parametrize("request_class", [QuantizeRequest, PlanRequest, CompareRequest, EvaluateRequest])
def test_a_request_does_not_show_its_token(request_class: type[Any]) -> None:
    positional = ["nf4"] if request_class is not EvaluateRequest else []
    secret = {"token": "hf_secret"}
    request = request_class("m", *positional, **secret)
    assert "hf_secret" not in repr(request)
    assert "hf_secret" not in repr(vars(request)) + repr(asdict(request))
    assert b"hf_secret" not in pickle.dumps(request)
    assert request.token == "hf_secret"  # noqa: S105


BAD: dict[str, tuple[Any, str]] = {
    "context": (lambda: PlanRequest("m", "nf4", context=0), "context must be at least 1, got 0"),
    "batch size": (lambda: PlanRequest("m", "nf4", batch_size=-1), "batch_size must be at least 1, got -1"),
    "no number": (lambda: PlanRequest("m", "nf4", context="many"), "context must be a whole number, got 'many'"),
    "limit": (lambda: FindModelsRequest(limit=0), "limit must be at least 1, got 0"),
    "tasks": (lambda: RunTasksRequest("m", "arc", limit=0), "limit must be at least 1, got 0"),
    "goal": (lambda: RecommendRequest("m", goal="beauty"), "goal must be one of quality, size, speed, got 'beauty'"),
    "memory": (lambda: RecommendRequest("m", memory="much"), "'much' is no size"),
    "retries": (lambda: CompareRequest("m", ["nf4"], retries=-1), "retries must be at least 0, got -1"),
    "no window": (lambda: EvaluateRequest("m", seq_len="x"), "seq_len must be a whole number, got 'x'"),
    "not a number": (
        lambda: EvaluateRequest("m", num_tokens=float("nan")),
        "num_tokens must be a whole number, got nan",
    ),
    "yes": (lambda: PlanRequest("m", "nf4", context=True), "context must be a whole number, got True"),
    "nothing": (lambda: PlanRequest("m", "nf4", batch_size=None), "batch_size must be a whole number, got None"),
    "switch": (lambda: QuantizeRequest("m", "nf4", resume="no"), "resume must be True or False, got 'no'"),
    "machine": (lambda: PlanRequest("m", "nf4", machine=3), "machine must be the name of one or a Machine, got 3"),
    "token": (lambda: FindModelsRequest(token=b"hf"), "token must be a text, got bytes"),
    "progress": (lambda: EvaluateRequest("m", on_progress=3), "on_progress must be a function, got 3"),
    "check": (lambda: VerifyRequest("m", on_check="f"), "on_check must be a function, got 'f'"),
    "no models": (lambda: RecommendRequest([]), "model is an empty list: give at least one"),
    "task": (lambda: RunTasksRequest("m", 3), "tasks must be names of tasks, or folders, got 3"),
    "task in a list": (lambda: RunTasksRequest("m", ["arc", 3]), "tasks must be names of tasks, or folders"),
    "examples": (lambda: RunTasksRequest("m", "arc", num_fewshot=-1), "num_fewshot must be at least 0, got -1"),
    "quality": (lambda: PublishRequest("p", "a/b", quality="q"), "quality must be what qt.evaluate returns, got str"),
    "window": (lambda: EvaluateRequest("m", seq_len=1), "seq_len must be at least 2"),
    "stride": (lambda: EvaluateRequest("m", stride=513), "stride must lie between 1 and seq_len, 512, got 513"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_a_value_that_cannot_be_is_refused_when_the_request_is_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_numbers_of_numpy_become_pythons() -> None:
    context = PlanRequest("m", "nf4", context=np.int64(600)).context
    assert (context, type(context)) == (600, int)
    assert QuantizeRequest("m", "nf4", resume=np.bool_(True)).resume


def test_none_of_an_optional_number_is_no_number() -> None:
    assert RunTasksRequest("m", "arc").limit is None


def test_arguments_are_those_of_the_verb_first_and_then_those_that_many_share() -> None:
    names = [one.name for one in arguments_of(EvaluateRequest)]
    assert names[:5] == ["model", "base", "executor", "retries", "text"]
    assert names[-1] == "on_progress"
