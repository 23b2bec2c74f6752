"""What is used of peft that it may move: these fail where a new version has other ways, and tell which."""

import inspect

from peft.tuners import lora
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant, QALoraLinearVariant

from qtoolkit.adapters.lora_layers import QuantizedLoraLinear
from qtoolkit.kernels import QuantizedLinear


def test_every_config_knows_our_layers() -> None:
    assert lora.LoraConfig()._custom_modules == {QuantizedLinear: QuantizedLoraLinear}
    # A person's own layers come beside them.
    config = lora.LoraConfig()
    config._register_custom_module({int: float})
    assert config._custom_modules == {QuantizedLinear: QuantizedLoraLinear, int: float}


def test_methods_that_are_overridden_are_there() -> None:
    for name in (
        "lora_variants",
        "resolve_lora_variant",
        "update_layer",
        "_get_in_out_features",
        "_get_base_layer_device_and_dtype",
    ):
        assert hasattr(LoraLayer, name), name
    assert hasattr(lora.LoraModel, "_check_merge_allowed")
    called_with = ["self", "parent", "child_name", "new_module", "child"]
    assert list(inspect.signature(lora.LoraModel._replace_module).parameters) == called_with
    assert list(inspect.signature(lora.LoraModel._prepare_model).parameters) == ["self", "peft_config", "model"]
    assert {"use_qalora", "qalora_group_size"} <= lora.LoraConfig.__dataclass_fields__.keys()
    assert "pooled_features" in inspect.getsource(QALoraLinearVariant.forward)
    assert "get_base_layer" in inspect.getsource(DoraLinearVariant.init)
    assert "get_base_layer" in inspect.getsource(DoraLinearVariant.forward)
