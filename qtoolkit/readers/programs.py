"""The programs of the reader contract, and how each is told to load a repository."""

from qtoolkit.readers.entry import Program

OWN = "qtoolkit"
# How to load a branch: vllm/engine/arg_utils.py:614, sglang/srt/server_args.py, mlx_lm/utils.py:655; the commands of
# mlx-lm have no such option. A subfolder transformers alone takes; vllm-project/vllm#52940 would add one.
BRANCHES = (
    "Each format is a branch of this repository, named after it; the first one is `main`. They are no subfolders, "
    "because vLLM, SGLang and mlx-lm look for a model at the root of a revision, and take the name of a branch."
)
_TRANSFORMERS = '{auto_class}.from_pretrained("{repo}"[, revision="{revision}"])'
_VLLM_SERVE = "vllm serve {repo}[ --revision {revision}]"
_SGLANG_SERVE = "python -m sglang.launch_server --model-path {repo}[ --revision {revision}]"
_MLX_LOAD = 'mlx_lm.load("{repo}"[, revision="{revision}"])'
PROGRAMS = (
    Program("transformers", "transformers", "5.24.0", "transformers/quantizers/auto.py", line=_TRANSFORMERS),
    Program("transformers4", "transformers", "4.57.6", "transformers/quantizers/auto.py", is_rare=True),
    Program("vllm", "vLLM", "0.33.0", "vllm/model_executor/layers/quantization/__init__.py", line=_VLLM_SERVE),
    Program("sglang", "SGLang", "0.5.23", "sglang/srt/layers/quantization/__init__.py", line=_SGLANG_SERVE),
    Program("gptqmodel", "gptqmodel", "7.7.0", "gptqmodel/quantization/config.py", is_rare=True),
    Program(
        "auto-gptq", "auto-gptq", "0.7.1", "auto_gptq/modeling/_base.py", "it reads its own format alone", is_rare=True
    ),
    Program("mlx-lm", "mlx-lm", "0.32.2", "mlx_lm/utils.py", line=_MLX_LOAD),
    Program("llama.cpp", "llama.cpp", "", "github.com/ggml-org/llama.cpp conversion/base.py", "it reads .gguf alone"),
    Program("ollama", "Ollama", "", "docs.ollama.com/import", "it reads .gguf alone, and quantizes none on import"),
    Program("lm-studio", "LM Studio", "", "lmstudio.ai/docs", "it runs llama.cpp and MLX alone"),
    Program(
        "peft", "peft", "0.21.2", "peft/tuners/lora/model.py", "it puts no adapter on them", is_rare=True, runs=False
    ),
    Program(OWN, "qtoolkit", "", "qtoolkit/formats"),
)
