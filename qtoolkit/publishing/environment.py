"""Choose the variables for a process that runs somebody's model: what Python, torch and CUDA need, and no more."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from qtoolkit.optional import RUNNING
from qtoolkit.publishing.patterns import SECRETS

# An allow-list, since nobody knows the names of all secrets. Upper case, as on Windows. What these variables make the
# process load, the person who set them has chosen; nothing in the folder can set one.
_NEEDED = (
    # Where programs, caches and temporary files are, and the user's name. Not where sockets are: XDG_RUNTIME_DIR,
    # DISPLAY, SSH_AUTH_SOCK, DBUS_SESSION_BUS_ADDRESS.
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
    # How it computes: threads, instruction sets, devices, kernels and where compiled kernels are kept.
    "(OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|VECLIB|NUMEXPR|ONEDNN|DNNL|ATEN)_[A-Z_0-9]+",
    f"(TORCH|PYTORCH|TORCHINDUCTOR|TORCHDYNAMO|TRITON|BNB|{'|'.join(RUNNING).upper()})_[A-Z_0-9]+",
    "(CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|HIP|HSA|ROCM|ROCR|GPU|SYCL|ZE)_[A-Z_0-9]+",
    # Triton compiles kernels with them.
    "CC|CXX|CPATH|C_INCLUDE_PATH|LIBRARY_PATH",
    # Where the Hub's cache is.
    "(TRANSFORMERS|TOKENIZERS|SAFETENSORS)_[A-Z_0-9]+|HF_(HOME|HUB_CACHE|MODULES_CACHE)|HUGGINGFACE_HUB_CACHE",
)
# A variable with such a name is never handed on, nor an address with a password.
_SECRET_NAMES = re.compile(r"TOKEN(?!IZERS_)|SECRET|PASSW|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_PASSWORD = re.compile(r"\w://[^/\s]*@")


def model_environment(environment: Mapping[str, str], *, with_qtoolkit: bool) -> dict[str, str]:
    """Return the variables for a process that runs a model: only those that it needs, no token, and the Hub offline.

    Args:
        environment: the variables of this process.
        with_qtoolkit: whether it shall find qtoolkit.
    """
    variables = {name: value for name, value in environment.items() if _is_needed(name.upper(), value)}
    variables |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # huggingface_hub reads the token from a file too.
    variables["HF_TOKEN_PATH"] = os.devnull
    # transformers takes compiled programs from the Hub for some models, also from the cache.
    variables["USE_HUB_KERNELS"] = "NO"
    if with_qtoolkit:
        root = str(Path(__file__).parents[2])
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (root, variables.get("PYTHONPATH"))))
    return variables


def _is_needed(name: str, value: str) -> bool:
    """Check whether a variable is among those that are needed, and neither name nor value looks like a secret."""
    if not any(re.fullmatch(pattern, name) for pattern in _NEEDED):
        return False
    if _SECRET_NAMES.search(name) or _PASSWORD.search(value):
        return False
    return not any(pattern.search(os.fsencode(value)) for pattern in SECRETS.values())
