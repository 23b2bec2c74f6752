"""The rows of the reader contract on models in 8 bits whose inputs are rounded too: float8, and int8 (W8A8)."""

from qtoolkit.readers.entry import Entry, Limit, Since
from qtoolkit.readers.shared_limits import HIDDEN_EXPERTS, MIXED, SGLANG, VLLM, WHOLE_BLOCKS, WHOLE_EXPERTS

_FORMAT = "compressed-tensors"
_VLLM_SCHEME = f"{VLLM}/compressed_tensors/schemes/compressed_tensors"
_SGLANG_SCHEME = f"{SGLANG}/compressed_tensors/schemes/compressed_tensors"
_INT8_EXPERTS = Limit(
    "experts",
    ("",),
    "int8 experts of {got}, all of which it holds in one tensor",
    "load it with qtoolkit, or give FP8()",
)
# sglang/srt/layers/quantization/compressed_tensors/compressed_tensors.py:982-989.
_NPU_EXPERTS = Limit("experts", ("",), "int8 experts of {got}, which it takes on NPUs alone", "give FP8()")
_ROUNDS = "it expands the codes, and rounds inputs as servers do: nothing is saved there"


def _rows(input_type: str, *, vllm: Entry, sglang: Entry) -> tuple[Entry, ...]:
    """Return the rows of models whose inputs are rounded to this type."""
    tried = "transformers/quantizers/quantizer_compressed_tensors.py; tests/readers/test_eight_bit_readers.py"
    return (
        Entry(
            "transformers",
            _FORMAT,
            source=tried,
            input_type=input_type,
            since=(Since("5.0.0", found="quantizer_compressed_tensors.py"),),
            needs="compressed-tensors >= 0.15",
            limits=(WHOLE_EXPERTS, _INT8_EXPERTS) if input_type == "int8" else (WHOLE_EXPERTS,),
            note=_ROUNDS,
        ),
        Entry(
            "transformers4",
            _FORMAT,
            source=tried,
            input_type=input_type,
            since=(Since("4.45.0", without="4.44.2", found="quantizer_compressed_tensors.py"),),
            needs="compressed-tensors",
            limits=(WHOLE_EXPERTS,),
            note=_ROUNDS,
        ),
        vllm,
        sglang,
        Entry(
            "mlx-lm",
            _FORMAT,
            source="mlx_lm/utils.py:309-328, 549",
            input_type=input_type,
            refused="it reads packed codes of this format alone",
            remedy="GPTQ(format='mlx') is for it",
        ),
        Entry(
            "llama.cpp",
            _FORMAT,
            source="llama.cpp conversion/base.py",
            input_type=input_type,
            refused="it reads .gguf alone",
            remedy="convert_hf_to_gguf.py makes a .gguf of it, expanded to 16 bits",
        ),
        Entry("qtoolkit", _FORMAT, source="qtoolkit/formats/compressed_tensors", input_type=input_type),
    )


EIGHT_BITS = (
    *_rows(
        "float8",
        vllm=Entry(
            "vllm",
            _FORMAT,
            source=f"{_VLLM_SCHEME}_w8a8_fp8.py:83, {_VLLM_SCHEME}_w8a16_fp8.py:53, {VLLM}/utils/fp8_utils.py:1296",
            input_type="float8",
            since=(
                Since("0.5.3", without="0.5.2", found="CHANNEL in compressed_tensors_w8a8_fp8.py"),
                Since("0.11.0", without="0.10.2", found="BLOCK there", field="group_sizes", values=(128,)),
            ),
            limits=(WHOLE_EXPERTS, WHOLE_BLOCKS, MIXED),
            note="in float8 on a GPU from compute capability 8.9 on, expanded to 16 bits from 7.5 on",
            kept_whole=("blocks",),
        ),
        sglang=Entry(
            "sglang",
            _FORMAT,
            source=f"{_SGLANG_SCHEME}_w8a8_fp8.py:65, {_SGLANG_SCHEME}_w8a16_fp8.py:35, {SGLANG}/fp8_utils.py:2852",
            input_type="float8",
            since=(
                Since("0.4.4.post2", without="0.4.4.post1", found="compressed_tensors_w8a8_fp8.py"),
                Since("0.5.6.post1", without="0.5.6", found="BLOCK there", field="group_sizes", values=(128,)),
            ),
            limits=(WHOLE_EXPERTS, WHOLE_BLOCKS, HIDDEN_EXPERTS, MIXED),
            note="in float8 on a GPU from compute capability 8.9 on, expanded to 16 bits from 8.0 on",
            kept_whole=("blocks",),
        ),
    ),
    *_rows(
        "int8",
        vllm=Entry(
            "vllm",
            _FORMAT,
            source=f"{_VLLM_SCHEME}_w8a8_int8.py:36; vllm/model_executor/kernels/linear/scaled_mm/cpu.py",
            input_type="int8",
            since=(Since("0.5.2", without="0.5.1", found="compressed_tensors_w8a8_int8.py"),),
            limits=(WHOLE_EXPERTS, MIXED),
            note="on a GPU from compute capability 7.5 on, and on a processor",
        ),
        sglang=Entry(
            "sglang",
            _FORMAT,
            source=f"{_SGLANG_SCHEME}_w8a8_int8.py:97",
            input_type="int8",
            since=(Since("0.5.3", without="0.5.2", found="compressed_tensors_w8a8_int8.py"),),
            limits=(WHOLE_EXPERTS, _NPU_EXPERTS, HIDDEN_EXPERTS, MIXED),
            note="on a GPU from compute capability 8.0 on",
        ),
    ),
)
