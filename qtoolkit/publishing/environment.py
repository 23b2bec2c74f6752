"""Choose the variables for a process that runs somebody's model: what Python, torch and CUDA need, and no more."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from qtoolkit.optional import RUNNING
from qtoolkit.publishing.patterns import SECRETS

# An allow-list: of secrets nobody knows all names. Upper case, as Windows has them. What a variable can make this
# process load, the person who set it has chosen for their own; nothing of the folder can set one.
_NEEDED = (
    # Where programs, caches and temporary files are, and who asks. Not where sockets are: XDG_RUNTIME_DIR, DISPLAY,
    # SSH_AUTH_SOCK, DBUS_SESSION_BUS_ADDRESS.
    "PATH|HOME|USER|LOGNAME|TMPDIR|TEMP|TMP|XDG_(CACHE|CONFIG|DATA)_HOME",
    # Where libraries are: CUDA's on Colab and clusters. LD_PRELOAD, since torch on some ARM machines finds no room for
    # libgomp when it is loaded later; on Colab it names an allocator. LD_AUDIT and LD_DEBUG help nothing here.
    "LD_LIBRARY_PATH|LD_PRELOAD|DYLD_[A-Z_]+|MALLOC_[A-Z_]+",
    "LANG|LANGUAGE|LC_[A-Z]+|TZ|VIRTUAL_ENV|CONDA_PREFIX|CONDA_DEFAULT_ENV",
    # Where Python and packages are (PYTHONPATH: a checkout, a cluster's modules, Colab), how it reads text, and where
    # it may write bytecode. Not what changes its behaviour: PYTHONWARNINGS=error would fail a model for a warning of
    # transformers, PYTHONOPTIMIZE leaves out the checks of packages; nor what starts something else, as
    # PYTHONSTARTUP, PYTHONINSPECT and PYTHONBREAKPOINT do.
    "PYTHON(HOME|PATH|HASHSEED|UTF8|IOENCODING|NOUSERSITE|USERBASE|PLATLIBDIR|SAFEPATH)",
    "PYTHON(DONTWRITEBYTECODE|PYCACHEPREFIX|_GIL)",
    # Windows starts no program without some of these.
    "SYSTEMROOT|SYSTEMDRIVE|WINDIR|COMSPEC|PATHEXT|USERPROFILE|USERNAME|HOMEDRIVE|HOMEPATH|APPDATA|LOCALAPPDATA",
    "PROGRAMDATA|PROGRAMFILES.*|PROCESSOR_[A-Z_]+|NUMBER_OF_PROCESSORS",
    # How it computes: threads, instruction sets, devices, kernels and where those are kept.
    "(OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|VECLIB|NUMEXPR|ONEDNN|DNNL|ATEN)_[A-Z_0-9]+",
    f"(TORCH|PYTORCH|TORCHINDUCTOR|TORCHDYNAMO|TRITON|BNB|{'|'.join(RUNNING).upper()})_[A-Z_0-9]+",
    "(CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|HIP|HSA|ROCM|ROCR|GPU|SYCL|ZE)_[A-Z_0-9]+",
    # Triton compiles kernels with them.
    "CC|CXX|CPATH|C_INCLUDE_PATH|LIBRARY_PATH",
    # Where the Hub's cache is.
    "(TRANSFORMERS|TOKENIZERS|SAFETENSORS)_[A-Z_0-9]+|HF_(HOME|HUB_CACHE|MODULES_CACHE)|HUGGINGFACE_HUB_CACHE",
)
# Whatever is called so is kept back, and so is an address with a password.
_SECRET_NAMES = re.compile(r"TOKEN(?!IZERS_)|SECRET|PASSW|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_PASSWORD = re.compile(r"\w://[^/\s]*@")


def model_environment(environment: Mapping[str, str], *, with_qtoolkit: bool) -> dict[str, str]:
    """Return the variables for a process that runs a model: only those that it needs, no token, and the Hub offline.

    Args:
        environment: the variables of this process.
        with_qtoolkit: whether it shall find qtoolkit.
    """
    kept = {name: value for name, value in environment.items() if _is_needed(name.upper(), value)}
    kept |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # huggingface_hub reads the token from a file too.
    kept["HF_TOKEN_PATH"] = os.devnull
    # transformers takes compiled programs from the Hub for some models, also from the cache.
    kept["USE_HUB_KERNELS"] = "NO"
    if with_qtoolkit:
        root = str(Path(__file__).parents[2])
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH"))))
    return kept


def _is_needed(name: str, value: str) -> bool:
    """Check whether a variable is among those that are needed, and neither name nor value looks like a secret."""
    if not any(re.fullmatch(pattern, name) for pattern in _NEEDED):
        return False
    if _SECRET_NAMES.search(name) or _PASSWORD.search(value):
        return False
    return not any(pattern.search(os.fsencode(value)) for pattern in SECRETS.values())
