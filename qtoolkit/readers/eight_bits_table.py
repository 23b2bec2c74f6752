"""The rows of the reader contract on models in 8 bits whose inputs are rounded too: float8, and int8 (W8A8)."""

from qtoolkit.readers.entry import Entry, Limit

_FORMAT = "compressed-tensors"
_MIXED = Limit(
    "mixed_units",
    (),
    "layers that it fuses, of which some are not quantized",
    "exclude all of q, k and v, or none of them, and so of gate and up",
)
_VLLM = "vllm/model_executor/layers/quantization/compressed_tensors/schemes/compressed_tensors"
_SGLANG = "sglang/srt/layers/quantization/compressed_tensors/schemes/compressed_tensors"
_ROUNDS = "it expands the codes, and rounds inputs as servers do: nothing is saved there"


def _rows(input_type: str, *, vllm: Entry, sglang: Entry) -> tuple[Entry, ...]:
    """Return the rows of models whose inputs are rounded to this type."""
    tried = "transformers/quantizers/quantizer_compressed_tensors.py; tests/readers/test_eight_bit_readers.py"
    needs = "compressed-tensors >= 0.15"
    return (
        Entry("transformers", _FORMAT, source=tried, input_type=input_type, needs=needs, note=_ROUNDS),
        Entry("transformers4", _FORMAT, source=tried, input_type=input_type, needs="compressed-tensors", note=_ROUNDS),
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
            source=f"{_VLLM}_w8a8_fp8.py:83, {_VLLM}_w8a16_fp8.py:53",
            input_type="float8",
            limits=(_MIXED,),
            note="in float8 on a GPU from compute capability 8.9 on, expanded to 16 bits from 7.5 on",
        ),
        sglang=Entry(
            "sglang",
            _FORMAT,
            source=f"{_SGLANG}_w8a8_fp8.py:65, {_SGLANG}_w8a16_fp8.py:35",
            input_type="float8",
            limits=(_MIXED,),
            note="in float8 on a GPU from compute capability 8.9 on, expanded to 16 bits from 8.0 on",
        ),
    ),
    *_rows(
        "int8",
        vllm=Entry(
            "vllm",
            _FORMAT,
            source=f"{_VLLM}_w8a8_int8.py:36; vllm/model_executor/kernels/linear/scaled_mm/cpu.py",
            input_type="int8",
            limits=(_MIXED,),
            note="on a GPU from compute capability 7.5 on, and on a processor",
        ),
        sglang=Entry(
            "sglang",
            _FORMAT,
            source=f"{_SGLANG}_w8a8_int8.py:97",
            input_type="int8",
            limits=(_MIXED,),
            note="on a GPU from compute capability 8.0 on",
        ),
    ),
)
