"""Packages that bring a method, a format or a kernel: one file each, written with public names alone."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.formats import format_of
from qtoolkit.formats.native.tensors import NativeTensors
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.file_checks import check_quantization
from qtoolkit.records import Verification
from qtoolkit.requests import PublishRequest
from tests.fake_hub.fixture import WRITE_TOKEN, environment
from tests.fake_hub.writable import WritableHub
from tests.outside.outside_hqq import codes_of, optimized_zero

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Module -> what it brings, as its `entry_points.txt` says.
PLUGINS = {
    "outside_hqq": {"methods": "hqq = outside_hqq:METHOD"},
    "outside_awq": {"methods": "awq = outside_awq:METHOD"},
    "outside_toy": {"methods": "toy = outside_toy:METHOD", "formats": "toy = outside_toy:FORMAT"},
    "outside_kernel": {"kernels": "square = outside_kernel:KERNEL"},
}


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_llama, tmp_path / "tiny-llama")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny-llama\n")
    return folder


def installed(plugin: str, folder: Path) -> Path:
    """A folder with the plugin as pip would have installed it."""
    info = folder / f"{plugin}-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(HERE / f"{plugin}.py", folder)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {plugin.replace('_', '-')}\nVersion: 1.0\n")
    groups = (f"[qtoolkit.{group}]\n{entry}\n" for group, entry in PLUGINS[plugin].items())
    (info / "entry_points.txt").write_text("\n".join(groups))
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[WritableHub]:
    """One Hub for all journeys: the process that they are forked from has read its address."""
    with WritableHub() as server:
        server.tokens.add(WRITE_TOKEN)
        server.writers[WRITE_TOKEN] = "me"
        yield server


@pytest.fixture(scope="module")
def journeys(hub: WritableHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process of `journey.py`, which has imported what is others' and forks one process for each plugin."""
    home = tmp_path_factory.mktemp("journeys")
    path = os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    variables = {"PYTHONPATH": path, "IPYTHONDIR": str(home / "ipython"), "HF_HUB_DISABLE_XET": "1"}
    variables |= environment(hub, home / "home")
    command = [sys.executable, str(HERE / "journey.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=os.environ | variables, text=True, **pipes) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@dataclass(frozen=True)
class Traveller:
    """Sends a plugin from plan to card."""

    base: Path
    hub: WritableHub
    process: subprocess.Popen[str]

    def __call__(self, plugin: str, method: str, **options: Any) -> dict[str, Any]:
        """What a process with the plugin sees, from plan to card."""
        folder = self.base.parent
        asked = {"site": str(installed(plugin, folder / "site")), "base": str(self.base), "method": method}
        asked |= {"options": options, "output": str(folder / "out"), "repo": f"me/tiny-{method}", "token": WRITE_TOKEN}
        asked |= {"answer": str(folder / "answer.json"), "log": str(folder / "log")}
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "0\n", (folder / "log").read_text()[-3000:]
        seen: dict[str, Any] = json.loads((folder / "answer.json").read_text())
        assert asked["repo"] in self.hub.repositories
        assert len(set(seen["footprints"])) == 1, seen["footprints"]
        assert all(seen[name] for name in ("same_logits", "same_file", "same_names", "loaded")) and seen["failed"] == []
        assert abs(seen["disk"][0] - seen["disk"][1]) <= 200
        assert f"{seen['config']}(" in seen["card"]
        return seen


@pytest.fixture
def journey(base: Path, hub: WritableHub, journeys: subprocess.Popen[str]) -> Traveller:
    return Traveller(base, hub, journeys)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_it_imports_public_names_alone(plugin: str) -> None:
    for node in ast.walk(ast.parse((HERE / f"{plugin}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("qtoolkit"):
            assert not re.search(r"(^|\.)_", ".".join((str(node.module), *(name.name for name in node.names))))


@pytest.mark.long
def test_a_method_like_hqq(journey: Traveller) -> None:
    seen = journey("outside_hqq", "hqq", group_size=32, steps=5)
    card = seen["card"]
    assert "linear layers in HQQ, 4 bits; everything else as it was" in card
    assert "from outside_hqq import HQQ\n\nconfig = HQQ(" in card and "qt.HQQ" not in card
    assert "# and outside-hqq, from where its authors publish it" in card
    assert "qtoolkit reads it with outside-hqq installed." in card
    assert "outside-hqq 1.0" in card


def test_half_quadratic_zero_points_make_smaller_errors() -> None:
    groups = torch.randn(64, 2, 32, generator=torch.Generator().manual_seed(0)) ** 3
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale = (high - low) / 15
    first = -8 - low / scale

    def worth(zero: torch.Tensor) -> torch.Tensor:
        return (groups - scale * (codes_of(groups, scale, zero) - zero)).abs().pow(0.7).sum(2)

    found = optimized_zero(groups, scale, first, steps=20)
    assert (worth(found) <= worth(first)).all() and worth(found).sum() < 0.95 * worth(first).sum()


@pytest.mark.long
def test_a_method_like_awq_folds_scales_into_norms(base: Path, journey: Traveller) -> None:
    seen = journey("outside_awq", "awq", group_size=32, alpha=1.0)
    card = seen["card"]
    assert "AWQ, 4 bits; the norms before them take over the scales of their inputs; everything else" in card
    assert "## What is not quantized" in card and "## What stays as it was" not in card
    saved, norm = load_file(base.parent / "out" / "model.safetensors"), "model.layers.0.input_layernorm.weight"
    source = {name: tensor for file in base.glob("*.safetensors") for name, tensor in load_file(file).items()}
    scale = source[norm].float() / saved[norm].float()
    assert scale.std() > 0.01
    query = "model.layers.0.self_attn.q_proj"
    tensors = NativeTensors(64, 64, bits=4, granularity="group", group_size=32, symmetric=False)
    codes = tensors.decode({tensor: saved[f"{query}.{tensor}"] for tensor in tensors.tensors()})
    weight, rounded = source[f"{query}.weight"].float(), codes.expanded(slice(0, 64), torch.float32).T
    # With the scales undone, the error of rounding alone is left.
    assert (rounded / scale - weight).norm() < 0.9 * (rounded - weight).norm()
    assert torch.equal(saved["model.norm.weight"], source["model.norm.weight"])


@pytest.mark.slow
def test_a_format_of_its_own(base: Path, journey: Traveller, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = journey("outside_toy", "toy", reach=0.9)
    card = seen["card"]
    assert "toyreader reads these layers from version 1.2" in card
    assert "no other program" not in card
    assert "tags:\n- toy\n- 8-bit\n" in card
    # A kernel takes the codes of any format; the file has the format's own tensors.
    assert {"int8_rows", "row_scales"} <= set(seen["buffers"])
    saved = base.parent / "out"
    assert any(name.endswith(".steps") for name in load_file(saved / "model.safetensors"))
    assert json.loads((saved / "config.json").read_text())["quantization_config"]["quant_method"] == "toy"
    monkeypatch.syspath_prepend(str(base.parent / "site"))
    assert check_quantization(open_artifact(saved)).passed
    (saved / "toy.json").write_text('{"version": 1, "layers": []}')
    assert "toy.json names other layers" in check_quantization(open_artifact(saved)).value


@pytest.mark.slow
def test_a_kernel_for_one_shape(base: Path, journey: Traveller) -> None:
    options = {"bits": 4, "granularity": "group", "group_size": 32}
    seen = journey("outside_kernel", "absmax", **options)
    assert "levels" in seen["buffers"]
    assert "- compressed-tensors" in seen["card"] and "outside-kernel" not in seen["card"]
    # The same file as without the kernel.
    qt.quantize(base, qt.AbsMax(**options), device="cpu", output=base.parent / "without")
    with_it, without = (base.parent / name / "model.safetensors" for name in ("out", "without"))
    assert with_it.read_bytes() == without.read_bytes()


def test_rules_that_change_nothing_are_not_carded_as_mixed(base: Path) -> None:
    config = qt.GPTQ(
        bits=4,
        rules={"*.down_proj": {"bits": 4}},
        calibration=["The keeper lit the lamp. " * 60],
        num_samples=2,
        seq_len=64,
    )
    qt.quantize(base, config, device="cpu", output=base.parent / "out")
    receipt = read_receipt(base.parent / "out")
    assert receipt is not None
    card = str(make_card(receipt, Verification("out", ()), PublishRequest("out", "me/tiny")))
    assert "GPTQ, 4 bits" in card and "- 4-bit" in card
    assert "layers with different bits" not in card


def test_a_broken_format_is_warned_of_and_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "torn-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qtoolkit.formats]\ntorn = torn_format:FORMAT\n")
    (tmp_path / "torn_format.py").write_text("import something_that_there_is_not\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match=r"format 'torn' is broken \(.*\): update or uninstall torn"):
        assert format_of({"quant_method": "unheard-of"}) is None
    found = format_of({"quant_method": "qtoolkit"})
    assert found is not None and found.name == "native"
