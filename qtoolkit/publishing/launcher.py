"""Run a Python file in a process that reaches no network, where the kernel gives it a network namespace of its own.

`python launcher.py REPORT PARENT FILE ARGUMENTS...`: it imports nothing of qtoolkit, and only then what FILE imports.
REPORT tells why the network is still reached, or nothing; PARENT is the number of the process that waits for it.
"""

import contextlib
import ctypes
import os
import runpy
import signal
import sys
from pathlib import Path

# linux/sched.h
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
# linux/prctl.h, linux/capability.h
_PARENT_DEATH_SIGNAL, _DROP_BOUND, _CAPABILITIES = 1, 24, 0x20080522
# To read and write files whatever their permissions say: what belongs to others is loaded as before.
_KEPT_CAPABILITIES = 0b111


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


def give_up_rights() -> None:
    """Keep, of what root may do, only the reading and writing of files.

    The kernel shows the variables and the memory of a process, and gives back its network, to none that may do less.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # From the bounding set too, or a program that this one starts would have all of them again.
    for number in range(64):
        if not _KEPT_CAPABILITIES >> number & 1:
            libc.prctl(_DROP_BOUND, number, 0, 0, 0)
    words = (ctypes.c_uint32 * 6)()
    head = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    # Effective, permitted and inheritable, 32 at a time.
    if libc.capget(head, words) == 0:
        words[:] = [words[0] & _KEPT_CAPABILITIES, words[1] & _KEPT_CAPABILITIES, 0, 0, 0, 0]
        libc.capset(head, words)


def end_with_parent(parent: int) -> None:
    """Let the kernel end this process when the one that waits for it ends, however that does."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    # It may have ended before, and another one waits then.
    if os.name != "nt" and os.getppid() != parent:
        sys.exit("the process that started this one has ended")


def offer_to_end() -> None:
    """Let the kernel, where memory runs out, end this process and not the one that waits for it."""
    # Only Linux has it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Do all of that, and run the file as if Python had been called with it."""
    report, parent, file, *arguments = sys.argv[1:]
    offer_to_end()
    Path(report).write_text(leave_network(), encoding="utf-8")
    give_up_rights()
    # Last: a change of rights forgets it.
    end_with_parent(int(parent))
    sys.argv = [file, *arguments]
    runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    main()
