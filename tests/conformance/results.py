"""What qtoolkit makes of the conformance matrix: hashes of files, values and words of records."""

import hashlib
import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import qtoolkit as qt
from qtoolkit.publishing import verifier
from tests.conformance.cases import CONFIGS, TEXTS, Case, write_base
from tests.conformance.values import Sentences, without_run
from tests.publishing.checks import in_this_process
from tests.sample_models import config_of

# What a process takes depends on all that ran in it before.
_RESIDENT = 500_000_000
_CONFIG = "config.json"
_VERSIONS = re.compile(rb'(?<="transformers_version": ")[^"]*|(?<="qtoolkit:)[^"]*')
_COMPARED = ("nf4", "fp4", "int8", "absmax-channel", "absmax-4bit-group", "zero_point-4bit-group", "gptq", "gptq-rules")
_DRAWN = (*_COMPARED, "absmax", "absmax-rules", "zero_point", "gptq-2bit", "gptq-desc_act", "gptq-rules-unchanged")
_PLANNED = (*_COMPARED[:-1], "nf4-single", "absmax", "zero_point", "gptq-3bit", "gptq-one-group", "gptq-desc_act")
_SIZES = (("7b", "t4"), ("gpt2-xl", "cpu-12gb"))


@contextmanager
def same_surroundings(cache: Path, *, bfloat16_is_fast: bool = False) -> Iterator[None]:
    """Leave out what depends on this process, user and processor: memory in use, caches, which products are fast.

    Args:
        cache: a folder that stands for the user's cache.
        bfloat16_is_fast: what the processor is taken for.
    """
    # A plan tells what is not loaded yet.
    for package in ("bitsandbytes", "datasets"):
        importlib.import_module(package)

    from qtoolkit import api  # noqa: F401  # and with it whatever asks for the names below

    fixed = {"resident_memory": _RESIDENT, "bfloat16_is_fast": bfloat16_is_fast}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict("os.environ", {"XDG_CACHE_HOME": str(cache)}))
        stack.enter_context(mock.patch("bitsandbytes.nn.modules.has_avx512bf16", return_value=False))
        stack.enter_context(
            mock.patch.object(verifier, "run_behaviour", lambda request, on_wait: in_this_process(request))
        )
        for module_name, name in itertools.product(list(sys.modules), fixed):
            if module_name.startswith("qtoolkit.") and hasattr(sys.modules[module_name], name):
                stack.enter_context(mock.patch.object(sys.modules[module_name], name, return_value=fixed[name]))
        yield


def processor() -> str:
    """What decides how sums of floats are rounded, beside versions and threads."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    told = [line for line in lines if line.startswith(("model name", "flags"))]
    name, digest = told[0].split(": ")[1], hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {digest}"


class Results:
    """Results of cases, made in a folder.

    Attributes:
        values: case -> files and records.
        sentences: the words of all records.
        texts: what is drawn of some records, and cards, as lines.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.values: dict[str, Any] = {}
        self.sentences = Sentences(root)
        self.texts: dict[str, list[str]] = {}

    def base(self, architecture: str, dtype: str) -> Path:
        """The folder of a model in full precision; its files count among the results."""
        folder = self._root / "bases" / f"{architecture}-{dtype}"
        if not folder.exists():
            write_base(folder, architecture, dtype)
            self.values[f"{architecture} {dtype}"] = {"files": hashes(folder)}
        return folder

    def run(self, case: Case) -> None:
        """Plan, quantize, save, load, save again, verify and publish one case; only files and plan of most models."""
        base, config, output = self.base(*case[:2]), CONFIGS[case.config], self._root / "made" / case.name
        plan = qt.plan(base, config, device="cpu", machine="cpu-12gb")
        made = qt.quantize(base, config, device="cpu", output=output)
        loaded = qt.load(output, device="cpu")
        assert isinstance(loaded, qt.QuantizedModel)
        again = hashes(loaded.save(self._root / "again" / case.name))
        files, of_base, config_of_base = hashes(output), hashes(base), _config_in(base)
        found = {
            "files": {name: "as the base's" if of_base.get(name) == value else value for name, value in files.items()},
            _CONFIG: {key: value for key, value in _config_in(output).items() if config_of_base.get(key) != value},
            "saved again otherwise": [name for name, value in again.items() if files.get(name) != value],
            "plan": self._values(plan if case.is_told_in_full else replace(plan, phases=(), machine=None)),
        }
        if case.is_told_in_full:
            found |= self._told(case, base, plan, made, loaded)
        self.values[case.name] = found

    def _told(
        self, case: Case, base: Path, plan: Any, made: qt.QuantizedModel, loaded: qt.QuantizedModel
    ) -> dict[str, Any]:
        """The other records of a case."""
        assert made.receipt is not None and made.path is not None
        published = qt.publish(made.path, f"someone/{case.config}", dry_run=True, base=base, base_model="someone/base")
        if case.config in _DRAWN:
            drawn = {"plan": plan, "report": made.report, "verification": published.verification}
            for name, record in drawn.items():
                self._draw(f"{case.name}: {name}", record)
            self.texts[f"{case.name}: card"] = self.sentences.without_run(published.card).splitlines()
        planned = self._values(plan)
        return {
            "report": _without(planned, self._values(made.report)),
            "receipt": _without(planned, self._values(replace(made.receipt, probe=None, files={}))),
            "loss of the probe": made.receipt.probe and made.receipt.probe.loss,
            "loaded": _without(planned, self._values(replace(loaded.report, layers=(), skipped=()))),
            "publication": self._values(replace(published, card="", files={})),
        }

    def run_comparison(self) -> None:
        """Compare one form of each kind on a text."""
        output = self._root / "comparison"
        configs = [None, *(CONFIGS[name] for name in _COMPARED)]
        text = [" ".join(TEXTS).replace("was", "has been")]
        options: dict[str, Any] = {"seq_len": 64, "num_tokens": 512, "device": "cpu", "output": output}
        comparison = qt.compare(self.base("llama", "bfloat16"), configs, text=text, **options)
        self.values["comparison"] = {
            "kept": sorted(file.name for file in output.iterdir()),
            "comparison": self._values(comparison),
        }

    def run_sizes(self) -> None:
        """Plan known models for machines from their configs alone, and ask what is recommended."""
        for model, machine in _SIZES:
            plans = {name: self._sums(qt.plan(config_of(model), CONFIGS[name], machine=machine)) for name in _PLANNED}
            found = qt.recommend(config_of(model), machine=machine)
            self._draw(f"{model} on {machine}: recommendation", found)
            self.values[f"{model} on {machine}"] = {"plans": plans, "recommendation": self._values(found)}

    def _values(self, record: Any) -> Any:
        return self.sentences.take(without_run(record).to_dict(), type(record).__name__)

    def _sums(self, plan: Any) -> Any:
        """The sums of a plan, whose layers would fill a book."""
        sums = ("footprint_after", "disk_after", "peak_rss", "peak_vram", "bits_per_weight", "fits")
        return {
            "settings": self._values(plan)["Plan 2"]["settings"],
            "num_layers": len(plan.layers),
            "num_skipped": len(plan.skipped),
            **{name: getattr(plan, name) for name in sums},
            "phases": {each.name: [each.peak_rss, each.peak_vram, each.disk, *each.seconds] for each in plan.phases},
            "advice": self._values(plan)["Plan 2"]["advice"],
        }

    def _draw(self, name: str, record: Any) -> None:
        self.texts[name] = self.sentences.without_run(str(without_run(record))).splitlines()


def _without(plan: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """A record's values, without those that the plan has too."""
    ((name, values),), (planned,) = record.items(), plan.values()
    same = [key for key, value in values.items() if value and planned.get(key) == value]
    return {name: {key: "as in the plan" if key in same else value for key, value in values.items()}}


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file but the receipt, which tells of the run, and the config, of which most is the base's."""
    left_out = ("qtoolkit.json", _CONFIG)
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    return {file.name: "is there" if file.name in left_out else _hash(file) for file in files}


def _config_in(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(_without_versions(folder / _CONFIG))
    return values


def _hash(file: Path) -> str:
    return hashlib.sha256(_without_versions(file)).hexdigest()


def _without_versions(file: Path) -> bytes:
    content = file.read_bytes()
    return _VERSIONS.sub(b"any", content) if file.suffix == ".json" else content
