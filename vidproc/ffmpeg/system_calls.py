"""The system calls of media processes, as a seccomp filter (Linux on x86_64 and aarch64).

The filter allows what a program needs to decode and encode: files, memory, threads and time. Some
calls are allowed only with certain arguments. All other calls answer EPERM; calls that are newer
than this list answer ENOSYS, as on an older kernel, so that programs fall back.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

# Numbers by architecture, from asm/unistd_64.h and asm-generic/unistd.h.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# fmt: off
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # Files. Landlock decides which ones.
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "close": (3, 57), "close_range": (436, 436), "read": (0, 63), "write": (1, 64),
    "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286), "pwritev2": (328, 287),
    "lseek": (8, 62), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83),
    "fadvise64": (221, 223), "sendfile": (40, 71), "copy_file_range": (326, 285), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "flock": (73, 32), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43),
    "fstatfs": (138, 44), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None),
    "getdents64": (217, 61), "getcwd": (79, 17), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "umask": (95, 166),
    # Its own memory.
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216),
    "mprotect": (10, 226), "madvise": (28, 233), "mincore": (27, 232), "msync": (26, 227),
    "pkey_mprotect": (329, 288), "pkey_alloc": (330, 289), "pkey_free": (331, 290),
    "mbind": (237, 235), "get_mempolicy": (239, 236), "set_mempolicy": (238, 237),
    "membarrier": (324, 283), "mlock": (149, 228), "munlock": (150, 229),
    # Threads.
    "exit": (60, 93), "exit_group": (231, 94), "futex": (202, 98), "futex_waitv": (449, 449),
    "set_tid_address": (218, 96), "set_robust_list": (273, 99), "rseq": (334, 293),
    "arch_prctl": (158, None), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168), "getpriority": (140, 141),
    # Its own signals and timers.
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "pause": (34, None),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103),
    # Waiting and time.
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441),
    "eventfd": (284, None), "eventfd2": (290, 19), "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    # Information about itself and the system.
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgrp": (111, None),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "getrandom": (318, 278),
}
_CONDITIONAL = {
    "execve": (59, 221), "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129),
    "tgkill": (234, 131), "prlimit64": (302, 261), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122), "prctl": (157, 167), "fcntl": (72, 25), "ioctl": (16, 29),
}
# fmt: on

_NEWEST = 450
"""The highest number known when the list was made. Higher ones are newer."""

_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020000  # a namespace of any kind
_PRCTL = (
    3,  # PR_GET_DUMPABLE
    15,  # PR_SET_NAME
    16,  # PR_GET_NAME
    23,  # PR_CAPBSET_READ
    39,  # PR_GET_NO_NEW_PRIVS
    51,  # PR_SVE_GET_VL
    0x53564D41,  # PR_SET_VMA: names of memory areas
)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, locks, F_DUPFD_CLOEXEC. Not F_SETOWN and F_SETSIG,
# which send signals to others, nor leases, which delay others that open the file.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Not file attributes.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06

_Instruction = tuple[int, int, int, int]


def filter_program(machine: str) -> bytes | None:
    """Return the filter as an array of ``struct sock_filter``, None for an unknown processor.

    `machine` is as in ``os.uname()``. `vidproc.ffmpeg.launcher` adds what only the new process
    knows: it restricts execve, kill and tgkill, which are allowed here, to the process itself.
    """
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]
    number = {name: pair[column] for name, pair in _CONDITIONAL.items()}
    program: list[_Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        _answer(errno.EPERM),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 0, 1, _NEWEST + 1),  # with x86's x32 calls
        _answer(errno.ENOSYS),
    ]
    program += _if(number["clone3"], [_answer(errno.ENOSYS)])  # the C library falls back to clone
    program += _if(
        number["clone"],
        [
            (_LOAD, 0, 0, _low(0)),
            (_AND, 0, 0, _CLONE_THREAD | _CLONE_NEW),
            (_EQUAL, 0, 1, _CLONE_THREAD),
            (_RETURN, 0, 0, _ALLOW),
            _answer(errno.EPERM),
        ],
    )
    for name in ("prlimit64", "sched_setaffinity"):  # process 0 is the caller
        program += _if(number[name], _argument_in(0, (0,)))
    # PRIO_PROCESS of the caller.
    program += _if(
        number["setpriority"],
        [
            (_LOAD, 0, 0, _low(1)),
            (_EQUAL, 1, 0, 0),
            _answer(errno.EPERM),
            *_argument_in(0, (0,)),
        ],
    )
    program += _if(number["prctl"], _argument_in(0, _PRCTL))
    program += _if(number["fcntl"], _argument_in(1, _FCNTL))
    program += _if(number["ioctl"], _argument_in(1, _IOCTL))
    allowed = {pair[column] for pair in _ALLOWED.values()}
    allowed |= {number[name] for name in ("execve", "kill", "tgkill")}
    allowed.discard(None)
    for first, after in _runs(sorted(n for n in allowed if n is not None)):
        # Below the run: refused, because earlier runs have been checked. In it: allowed.
        program += [
            (_AT_LEAST, 1, 0, first),
            _answer(errno.EPERM),
            (_AT_LEAST, 1, 0, after),
            (_RETURN, 0, 0, _ALLOW),
        ]
    program.append(_answer(errno.EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _low(argument: int) -> int:
    """Return the offset of an argument's lower half in ``struct seccomp_data``, little-endian."""
    return 16 + 8 * argument


def _answer(error: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _if(number: int | None, then: Sequence[_Instruction]) -> list[_Instruction]:
    """Return `then`, which must end with an answer, for the call `number`."""
    return [] if number is None else [(_EQUAL, 0, len(then), number), *then]


def _argument_in(argument: int, values: Sequence[int]) -> list[_Instruction]:
    """Allow the call if the argument's lower half is one of the values, as the kernel reads it."""
    found = [(_EQUAL, len(values) - 1 - i + 1, 0, value) for i, value in enumerate(values)]
    return [
        (_LOAD, 0, 0, _low(argument)),
        *found,
        _answer(errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, one after the last) for each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n:
            runs[-1] = (runs[-1][0], n + 1)
        else:
            runs.append((n, n + 1))
    return runs
