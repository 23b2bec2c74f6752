"""A method is one entry: found by its name, in this package or in another one, and imported when it is named."""

import subprocess
import sys
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import UnknownMethodError
from qtoolkit.methods import config_class, get_method

# A whole method: round to sign and mean magnitude, one bit of information in an int8 code.
METHOD_FILE = '''
"""sign: the sign of each weight times the mean magnitude of its output row."""

from dataclasses import dataclass

import torch
from qtoolkit.methods import LinearMethod, MethodConfig, option


class SignLinear(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.register_buffer("weight", torch.empty(layer.out_features, layer.in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(layer.out_features, 1))

    def forward(self, x):
        return torch.nn.functional.linear(x, (self.weight * self.scale).to(x.dtype))


@dataclass(frozen=True, kw_only=True)
class Sign(MethodConfig):
    """Signs."""

    method = "sign"
    strength: float = option(1.0, help="how strongly to sign", unit="none")


class SignMethod(LinearMethod):
    config_class = Sign
    summary = "signs only"

    def plan_layer(self, layer, config):
        stored = layer.num_weights + 4 * layer.out_features
        return layer.replaced(stored, disk_bytes=stored, working_bytes=4 * layer.num_weights)

    def build(self, layer, config, dtype):
        return SignLinear(layer)

    def quantize_weight(self, weight, layer, config):
        return {"weight": weight.sign().to(torch.int8), "scale": weight.float().abs().mean(1, keepdim=True)}


METHOD = SignMethod()
'''
USE = """
import sys, torch, qtoolkit as qt
assert "sign" in qt.available_methods() and "sign_package" not in sys.modules
quantized = qt.quantize(sys.argv[1], "sign", device="cpu", output=sys.argv[2])
assert quantized.memory.footprint_after == quantized.memory.predicted_footprint_after
tokens = torch.arange(2, 10).reshape(1, 8)
assert torch.equal(qt.load(sys.argv[2], device="cpu").model(tokens).logits, quantized.model(tokens).logits)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package that brings the method `sign` through the entry-point group."""
    (tmp_path / "sign_package.py").write_text(METHOD_FILE)
    info = tmp_path / "sign_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sign-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qtoolkit.methods]\nsign = sign_package:METHOD\n")
    return tmp_path


def test_methods_of_this_package() -> None:
    assert {"absmax", "fp4", "int8", "nf4", "zero_point"} <= set(qt.available_methods())


@pytest.mark.slow
@pytest.mark.long
def test_a_method_from_another_package_works_whole(package: Path, tiny_llama: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(package)!r})\n" + USE
    subprocess.run([sys.executable, "-c", code, str(tiny_llama), str(tmp_path / "quantized")], check=True)


def test_two_methods_of_one_name_are_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points = package / "sign_package-1.0.dist-info" / "entry_points.txt"
    entry_points.write_text("[qtoolkit.methods]\nnf4 = sign_package:METHOD\n")
    monkeypatch.syspath_prepend(str(package))
    with pytest.raises(UnknownMethodError, match="'nf4' is brought more than once: uninstall one of sign-package"):
        get_method("nf4")


def test_an_unknown_method_names_those_there_are() -> None:
    with pytest.raises(
        UnknownMethodError,
        match=r"no method 'gtpq': did you mean gptq\? the methods are absmax, fp4, fp8, gguf, gptq, int8, .*zero_point",
    ):
        get_method("gtpq")


@pytest.mark.parametrize(
    ("name", "here"), [("AWQ", "gptq"), ("int4", "nf4"), ("8bit", "int8"), ("q4_k_m", "gguf"), ("IQ2_XS", "gguf")]
)
def test_a_name_of_elsewhere_is_told_what_stands_in_its_place(name: str, here: str) -> None:
    with pytest.raises(UnknownMethodError, match=rf"no method '{name}': did you mean {here}\? the methods"):
        get_method(name)


def test_a_name_may_have_dashes() -> None:
    assert get_method("zero-point") is get_method("zero_point")


def test_every_config_is_a_public_name() -> None:
    configs = {type(config_class(name)()).__name__ for name in qt.available_methods()}
    assert configs <= set(qt.__all__)


def test_configs_are_attributes_of_the_package() -> None:
    assert qt.ZeroPoint.__module__ == "qtoolkit.methods.affine_config"
    with pytest.raises(AttributeError, match="no attribute 'NF5'"):
        _ = qt.NF5
