"""Run a Python file in a process that reaches no network and no other program's socket, where the kernel lets it.

`python launcher.py REPORT PARENT FILE ARGUMENTS...`: it imports nothing of qtoolkit, and only then what FILE imports.
REPORT tells in JSON why the network, and why local sockets, are still reached, or nothing of each; PARENT is the number
of the process that waits for it.
"""

import contextlib
import ctypes
import json
import os
import platform
import runpy
import signal
import struct
import sys
from pathlib import Path

# linux/sched.h
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
# linux/prctl.h, linux/capability.h
_PARENT_DEATH_SIGNAL, _DROP_BOUND, _CAPABILITIES = 1, 24, 0x20080522
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
# linux/audit.h, asm/unistd.h: machine -> its number, and those of its calls socket, socketpair and connect.
_CALLS = {"x86_64": (0xC000003E, 41, 53, 42), "aarch64": (0xC00000B7, 198, 199, 203)}
# The same on both machines; and where x86_64's second set of numbers for the same calls begins.
_IO_URING_SETUP, _OTHER_NUMBERS = 425, 0x40000000
# linux/bpf_common.h: load a word of the call's description, keep some bits, compare, end.
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
# Offsets in that description, linux/seccomp.h: the low halves of the first two arguments, on these machines.
_NUMBER, _MACHINE, _FIRST, _SECOND = 0, 4, 16, 24
_ALLOWED, _REFUSED = 0x7FFF0000, 0x00050000 | 13  # 13: permission denied
# Families of sockets, sys/socket.h: a network namespace keeps all but the first of these to itself.
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _SEQUENCE, _KINDS = 1, 5, 0xF
# The rights to read and write files of other users, whatever their permissions say: they are loaded as before.
_KEPT_CAPABILITIES = 0b111


def leave_network() -> str:
    """Move this process, while it has one thread, into a network namespace without interfaces.

    Anybody may make a network namespace inside a user namespace; root needs none. Files and devices stay as they are.

    Returns:
        Why it cannot be moved; empty where it was.
    """
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no network namespaces"
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEW_NET) == 0:
        return ""
    if libc.unshare(_NEW_USER | _NEW_NET) != 0:
        return os.strerror(ctypes.get_errno())
    # Keeps the user's and the group's number; without it the user is "nobody", with the same rights.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return ""


def leave_local_sockets() -> str:
    """Keep this process and all that it starts from connecting to any socket.

    A network namespace does not cover sockets with a path (Docker's, ssh-agent's, X11's), nor some families. So the
    kernel refuses to connect any socket; to make one that sends to whom it is not connected, but for a network's; to
    make one of another family; and the ring, by which all of that can be asked for too. Pairs of sockets stay, which
    Python's own libraries use, and so does listening, without which CUDA does not start.

    Returns:
        Why it cannot be kept from that; empty where it is.
    """
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no seccomp"
    if platform.machine() not in _CALLS:
        return f"the system calls of {platform.machine()} are not known"
    machine, make, make_pair, connect = _CALLS[platform.machine()]
    # Code, value, and the lines to jump to if the comparison holds and if not; without those, the next line follows.
    lines = (
        *((_LOAD, _MACHINE), (_EQUAL, machine, 2, 18)),
        *((_LOAD, _NUMBER), (_AT_LEAST, _OTHER_NUMBERS, 18, 4)),
        *((_EQUAL, connect, 18, 5), (_EQUAL, _IO_URING_SETUP, 18, 6)),
        *((_EQUAL, make, 8, 7), (_EQUAL, make_pair, 8, 17)),
        *((_LOAD, _FIRST), (_EQUAL, _INET, 17, 10), (_EQUAL, _INET6, 17, 11), (_EQUAL, _NETLINK, 17, 12)),
        *((_EQUAL, _UNIX, 13, 18), (_LOAD, _SECOND), (_AND, _KINDS)),
        *((_EQUAL, _STREAM, 17, 16), (_EQUAL, _SEQUENCE, 17, 18)),
        *((_RETURN, _ALLOWED), (_RETURN, _REFUSED)),
    )
    code = b"".join(_instruction(number, *line) for number, line in enumerate(lines))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = (ctypes.c_size_t * 2)(len(lines), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    # Without the first of these, only root may install a filter.
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and libc.prctl(_SECCOMP, _FILTER, program, 0, 0) == 0:
        return ""
    return os.strerror(ctypes.get_errno())


def _instruction(line: int, code: int, value: int, where: int = 0, elsewhere: int = 0) -> bytes:
    """Return an instruction of a filter, as linux/filter.h has it: jumps count from the next one, and only forwards."""
    jumps = [target - line - 1 if target else 0 for target in (where, elsewhere)]
    return struct.pack("=HBBI", code, *jumps, value)


def give_up_rights() -> None:
    """Keep, of what root may do, only the reading and writing of files.

    The kernel shows the variables and the memory of a process, and gives back its network, to none that may do less.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # From the bounding set too, or a program that this process starts would have all of them again.
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
    # The parent may have ended before that call, and this process has another parent then.
    if os.name != "nt" and os.getppid() != parent:
        sys.exit("the process that started this one has ended")


def offer_to_end() -> None:
    """Let the kernel, where memory runs out, end this process and not the one that waits for it."""
    # Only Linux has it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Take rights, network and sockets from this process, and run the file as if Python had been called with it."""
    report, parent, file, *arguments = sys.argv[1:]
    offer_to_end()
    still_open = {"network_open": leave_network(), "sockets_open": leave_local_sockets()}
    Path(report).write_text(json.dumps(still_open), encoding="utf-8")
    give_up_rights()
    # Last, since a change of rights resets it.
    end_with_parent(int(parent))
    sys.argv = [file, *arguments]
    runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    main()
