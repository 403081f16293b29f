"""The seccomp filter of the sandbox: system calls that a program does not get (classic BPF, seccomp(2)).

A deny list for what namespaces and limits leave open: namespaces of its own, other processes' memory, memory that no
limit counts (memfd, System V), sockets that no network namespace holds back (vsock), and parts of the kernel that
programs of this kind never need.
"""

from __future__ import annotations

import os
import platform
import struct

_COMMON = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442,
    "quotactl_fd": 443, "memfd_secret": 447,
}  # fmt: skip
_X86_64 = {
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "mount": 165, "umount2": 166,
    "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "bpf": 321, "perf_event_open": 298,
    "userfaultfd": 323, "keyctl": 250, "add_key": 248, "request_key": 249, "kexec_load": 246, "kexec_file_load": 320,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "name_to_handle_at": 303, "open_by_handle_at": 304,
    "memfd_create": 319, "shmget": 29, "msgget": 68, "semget": 64, "syslog": 103, "fanotify_init": 300,
    "lookup_dcookie": 212, "quotactl": 179, "acct": 163,
}  # fmt: skip
_AARCH64 = {
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "mount": 40, "umount2": 39,
    "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "bpf": 280, "perf_event_open": 241,
    "userfaultfd": 282, "keyctl": 219, "add_key": 217, "request_key": 218, "kexec_load": 104, "kexec_file_load": 294,
    "init_module": 105, "finit_module": 273, "delete_module": 106, "name_to_handle_at": 264, "open_by_handle_at": 265,
    "memfd_create": 279, "shmget": 194, "msgget": 186, "semget": 190, "syslog": 116, "fanotify_init": 262,
    "lookup_dcookie": 18, "quotactl": 60, "acct": 89,
}  # fmt: skip
_MACHINES = {
    "x86_64": (0xC000003E, {**_COMMON, **_X86_64}, {"clone": 56, "clone3": 435, "socket": 41}),
    "aarch64": (0xC00000B7, {**_COMMON, **_AARCH64}, {"clone": 220, "clone3": 435, "socket": 198}),
}
"""Machine -> its name in the kernel's audit, what is denied, and what is looked at (asm/unistd.h)."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_X32 = 0x40000000
_NEW_NAMESPACE = 0x7E020080
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: all three end in the sandbox's own network, which has no way out."""


def filter_program() -> bytes | None:
    """The filter for this machine; None for one whose system calls are not in the table."""
    if platform.machine() not in _MACHINES:
        return None
    arch, denied, looked_at = _MACHINES[platform.machine()]
    lines = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _REFUSE | _EPERM),
        # Its flags lie behind a pointer, which a filter cannot follow: libraries fall back to clone.
        (_EQUAL, 0, 1, looked_at["clone3"]),
        (_RETURN, 0, 0, _REFUSE | _ENOSYS),
    ]
    for number in sorted(denied.values()):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE | _EPERM)]
    lines += [(_EQUAL, 0, 4, looked_at["clone"]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _NEW_NAMESPACE)]
    lines += [(_RETURN, 0, 0, _REFUSE | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    lines += [(_EQUAL, 0, 5, looked_at["socket"]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    lines += [(_EQUAL, len(_FAMILIES) - index, 0, family) for index, family in enumerate(_FAMILIES)]
    lines += [(_RETURN, 0, 0, _REFUSE | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def filter_file() -> int:
    """A file descriptor that the filter can be read from."""
    program = filter_program()
    assert program is not None
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, program)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
