"""Benchmark tasks: what lm-eval counts is what a plain loop over the model's log-probabilities counts."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import qtoolkit as qt
from qtoolkit.records import TaskMetric, TaskReport
from tests.evaluation.task_files import EXAMPLES, QUESTIONS, Question, prompt, write_task

pytestmark = pytest.mark.slow

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval>=0.4.13'")


@pytest.fixture(scope="module")
def model(smollm2: Path) -> PreTrainedModel:
    """In float32, so that padding flips no answer."""
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


def log_probability(model: PreTrainedModel, tokenizer: Any, context: str, answer: str) -> float:
    """The sum over the answer's tokens, one sequence at a time."""
    before, whole = tokenizer(context)["input_ids"], tokenizer(context + answer)["input_ids"]
    assert whole[: len(before)] == before
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)  # [tokens, V]
    return sum(float(logits[position - 1, whole[position]]) for position in range(len(before), len(whole)))


def answered(
    model: PreTrainedModel, tokenizer: Any, questions: list[Question], examples: list[Question]
) -> dict[str, list[bool]]:
    """Which questions are answered right: by the likeliest choice, and by the likeliest for each byte of it."""
    shown = "".join(f"{prompt(question)} {choices[answer]}\n\n" for question, choices, answer in examples)
    right: dict[str, list[bool]] = {"acc": [], "acc_norm": []}
    for question, choices, answer in questions:
        sums = [log_probability(model, tokenizer, shown + prompt(question), f" {choice}") for choice in choices]
        per_byte = [value / len(choice.encode()) for value, choice in zip(sums, choices, strict=True)]
        right["acc"].append(sums.index(max(sums)) == answer)
        right["acc_norm"].append(per_byte.index(max(per_byte)) == answer)
    return right


def named(report: TaskReport, task: str = "small_questions") -> dict[str, TaskMetric]:
    return {metric.metric: metric for metric in report.metrics if metric.task == task}


@pytest.mark.parametrize(
    ("num_fewshot", "limit"),
    [(None, None), pytest.param(2, None, marks=pytest.mark.long), (0, 4)],
    ids=["all", "2-shot", "first 4"],
)
def test_accuracy_is_that_of_a_plain_loop(
    model: PreTrainedModel, tokenizer: Any, tmp_path: Path, num_fewshot: int | None, limit: int | None
) -> None:
    report = qt.run_tasks(model, write_task(tmp_path), num_fewshot=num_fewshot, limit=limit, batch_size=3)
    expected = answered(model, tokenizer, QUESTIONS[:limit], EXAMPLES[: num_fewshot or 0])
    found = named(report)
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        metric = found[name]
        assert metric.value == pytest.approx(statistics.fmean(right))
        assert metric.standard_error == pytest.approx(statistics.stdev(map(float, right)) / len(right) ** 0.5)
        assert (metric.num_samples, metric.num_fewshot, metric.version) == (len(right), num_fewshot or 0, "1.5")
        assert metric.higher_is_better is True
    # Neither all right nor all wrong, or nothing would be seen.
    assert 0 < found["acc"].value < 1
    assert report.lm_eval_version == lm_eval.__version__
    assert report.notes == ()


def test_a_written_answer_is_that_of_generate(model: PreTrainedModel, tokenizer: Any, tmp_path: Path) -> None:
    settings = {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}
    metrics = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}]
    changes = {"doc_to_target": "{{choices[answer]}}", "doc_to_choice": None, "metric_list": metrics}
    stripped = {"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
    write_task(tmp_path, output_type="generate_until", generation_kwargs=settings, filter_list=[stripped], **changes)
    found = named(qt.run_tasks(model, tmp_path, num_fewshot=3))["exact_match"]
    shown = "".join(f"{prompt(question)} {choices[answer]}\n\n" for question, choices, answer in EXAMPLES)
    right = []
    for question, choices, answer in QUESTIONS:
        ids = tokenizer(shown + prompt(question), return_tensors="pt")
        written = model.generate(**ids, max_new_tokens=4, do_sample=False)[0, ids["input_ids"].shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True).split("\n")[0].strip()
        right.append(text.lower() == choices[answer].lower())
    assert found.value == pytest.approx(statistics.fmean(right))
    assert found.value > 0
    assert found.filter == "stripped"


def test_a_group_has_the_mean_of_its_tasks(model: PreTrainedModel, tmp_path: Path) -> None:
    write_task(tmp_path, "first")
    write_task(tmp_path, "second", doc_to_text="Complete: {{question}}")
    aggregate = "[{metric: acc, aggregation: mean, weight_by_size: true}]\n"
    (tmp_path / "both.yaml").write_text(f"group: both\ntask: [first, second]\naggregate_metric_list: {aggregate}")
    report = qt.run_tasks(model, str(tmp_path))
    values = [named(report, task)["acc"].value for task in ("first", "second")]
    both = named(report, "both")["acc"]
    assert both.value == pytest.approx(statistics.fmean(values))
    assert both.num_samples == 2 * len(QUESTIONS)


def test_a_task_that_is_made_without_examples_says_so(tiny_llama: Path, tmp_path: Path) -> None:
    report = qt.run_tasks(tiny_llama, write_task(tmp_path, num_fewshot=0), num_fewshot=2, limit=2)
    assert {metric.num_fewshot for metric in report.metrics} == {0}
    assert report.notes == ("small_questions is asked without examples instead of 2: its file says num_fewshot 0",)


def test_a_quantized_model_answers_as_it_does_in_a_plain_loop(smollm2: Path, tokenizer: Any, tmp_path: Path) -> None:
    quantized = qt.quantize(smollm2, qt.NF4(), device="cpu")
    report = qt.run_tasks(quantized, write_task(tmp_path))
    expected = answered(quantized.model, tokenizer, QUESTIONS, [])
    assert named(report)["acc"].value == pytest.approx(statistics.fmean(expected["acc"]))
    assert report.model == f"{smollm2}, nf4"
