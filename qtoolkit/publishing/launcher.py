"""Run a Python file in a process that reaches no network, where the kernel gives it a network namespace of its own.

`python launcher.py REPORT FILE ARGUMENTS...`: it imports nothing of qtoolkit, and only then what FILE imports. REPORT
tells why the network is still reached, or nothing.
"""

import contextlib
import ctypes
import os
import runpy
import sys
from pathlib import Path

# linux/sched.h
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000


def leave_network() -> str:
    """Move this process, while it has one thread, into a namespace without interfaces; why it cannot, or nothing.

    Anybody may make a network namespace inside a user namespace; root needs none. Files and devices stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no network namespaces"
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEW_NET) == 0:
        return ""
    if libc.unshare(_NEW_USER | _NEW_NET) != 0:
        return os.strerror(ctypes.get_errno())
    # The same names as before; without them this user is "nobody", and may still do as much.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return ""


def offer_to_end() -> None:
    """Let the kernel, where memory runs out, end this process and not the one that waits for it."""
    # Only Linux has it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Do both, and run the file as if Python had been called with it."""
    report, file, *arguments = sys.argv[1:]
    offer_to_end()
    Path(report).write_text(leave_network(), encoding="utf-8")
    sys.argv = [file, *arguments]
    runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    main()
