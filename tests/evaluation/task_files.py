"""Folders of small tasks as lm-eval describes them, with their questions in JSON lines."""

import json
from pathlib import Path
from typing import Any

import yaml

# Two answers are wrong, so that no model has all of them right.
QUESTIONS = [
    ("The capital of France is", ["London", "Paris", "the river Seine"], 1),
    ("The colour of the sky on a clear day is", ["green", "blue"], 1),
    ("Two plus two is", ["four", "twenty-one", "none of these numbers"], 0),
    ("A dog says", ["meow", "woof"], 0),
    ("The opposite of hot is", ["warm", "cold", "very hot"], 1),
    ("Water freezes at a temperature of", ["zero degrees Celsius", "fire"], 0),
    ("The sun rises in the", ["west", "east"], 0),
]
EXAMPLES = [
    ("Snow is", ["white", "black"], 0),
    ("A week has this many days:", ["five", "seven"], 1),
    ("Fish live in", ["water", "trees"], 0),
]

Question = tuple[str, list[str], int]


def prompt(question: str) -> str:
    return f"Q: {question}\nA:"


def write_task(folder: Path, name: str = "small_questions", **changes: Any) -> Path:
    """A task of questions with choices, whose solved examples are the first ones; `changes` are keys of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, questions in (("test", QUESTIONS), ("train", EXAMPLES)):
        lines = [json.dumps({"question": q, "choices": choices, "answer": a}) for q, choices, a in questions]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files = {split: str(folder / f"{split}.jsonl") for split in ("test", "train")}
    values = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.5},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return folder
