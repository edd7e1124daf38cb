"""A decoder under an attacker's control: it tries what must be impossible, and reports the outcome.

`tests.test_hostile_decoder` runs it inside the sandbox, in place of FFmpeg or the probe, with one
argument, a JSON object: ``pid`` of a process of the same user, a ``file`` of someone else and its
``folder``, an ``input`` that it may read, its ``own`` folder or null, and ``program``. It prints a
JSON list for each attempt: its name, and the name of the error or "done".
"""

import ctypes
import errno
import json
import mmap
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# x86_64, aarch64.
# fmt: off
CALLS: "dict[str, tuple[int | None, int | None]]" = {
    "socket": (41, 198), "socketpair": (53, 199), "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "kcmp": (312, 272), "move_pages": (279, 239),
    "migrate_pages": (256, 238), "get_robust_list": (274, 100), "shmget": (29, 194),
    "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_setup": (206, 0),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "execve": (59, 221),
    "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "clone": (56, 220),
    "clone3": (435, 435), "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "fsopen": (430, 430), "open_tree": (428, 428), "move_mount": (429, 429),
    "mount_setattr": (442, 442), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchown": (93, 55), "fchownat": (260, 54), "utimensat": (280, 88), "setxattr": (188, 5),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "truncate": (76, 45), "link": (86, None),
    "linkat": (265, 37), "symlinkat": (266, 36), "mknodat": (259, 33), "mkdirat": (258, 34),
    "fallocate": (285, 47), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "openat": (257, 56), "unlinkat": (263, 35), "renameat2": (316, 276), "prctl": (157, 167),
    "fcntl": (72, 25), "ioctl": (16, 29), "personality": (135, 92), "modify_ldt": (154, None),
    "seccomp": (317, 277), "landlock_create_ruleset": (444, 444), "setuid": (105, 146),
    "setgroups": (116, 159), "capset": (126, 91), "syslog": (103, 116), "reboot": (169, 142),
    "swapon": (167, 224), "acct": (163, 89), "sethostname": (170, 161),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104),
    "quotactl": (179, 60), "iopl": (172, None), "ioperm": (173, None), "sync": (162, 81),
    "syncfs": (306, 267), "vmsplice": (278, 75), "splice": (275, 76), "tee": (276, 77),
    "pipe2": (293, 59), "mlockall": (151, 230), "getpid": (39, 172),
}
# fmt: on

_AT_FDCWD = -100
_CLONE_NEWUSER = 0x10000000
_SIGCHLD, _SIGKILL = 17, 9
_FAMILIES = {
    "unix": 1, "inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "bluetooth": 31, "alg": 38,
    "vsock": 40, "xdp": 44,
}  # fmt: skip

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: "int | bytes | ctypes.Array[ctypes.c_char]") -> "str | None":
    """Make a system call. Return the error's name or "done", None if there is no such call."""
    number = CALLS[name][os.uname().machine == "aarch64"]
    return None if number is None else raw(number, *arguments)


def raw(number: int, *arguments: "int | bytes | ctypes.Array[ctypes.c_char]") -> str:
    """Make the system call with a number."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    words += [ctypes.c_long(0)] * (6 - len(words))
    result = libc.syscall(ctypes.c_long(number), *words)
    return "done" if result != -1 else errno.errorcode[ctypes.get_errno()]


def attempts(
    pid: int, file: str, folder: str, input: str, own: "str | None", program: str
) -> "Iterator[tuple[str, Callable[[], str | None]]]":
    """Yield the name of each attempt and a function that makes it."""
    other, inside, mine = (os.fsencode(path) for path in (file, folder, input))
    buffer = ctypes.create_string_buffer(4096)
    reader = os.open(input, os.O_RDONLY)
    at = _AT_FDCWD

    def simple(name: str, *arguments: "int | bytes | ctypes.Array[ctypes.c_char]") -> None:
        made.append((name, lambda: call(name.split(":")[0], *arguments)))

    made: list[tuple[str, Callable[[], str | None]]] = []
    for family, number in _FAMILIES.items():
        simple(f"socket:{family}", number, 2, 0)
        simple(f"socket:{family}-raw", number, 3, 0)
    simple("socketpair", 1, 1, 0, buffer)

    # Other processes: by number, by group, all of them.
    for name in ("kill", "tkill", "pidfd_open", "process_mrelease"):
        simple(name, pid, 0)
    simple("kill:group", 0, 0)
    simple("kill:all", -1, 0)
    simple("tgkill", pid, pid, 0)
    simple("rt_sigqueueinfo", pid, 0, buffer)
    simple("pidfd_send_signal", 1, 0, 0, 0)
    simple("pidfd_getfd", 1, 0, 0)
    simple("prlimit64", pid, 0, 0, buffer)
    simple("prlimit64:parent", os.getppid(), 0, 0, buffer)
    simple("sched_setaffinity", pid, 8, buffer)
    simple("sched_setscheduler", pid, 3, buffer)
    simple("setpriority", 0, pid, 19)
    simple("setpriority:user", 2, 0, 19)
    simple("setpriority:group", 1, 0, 19)
    simple("ioprio_set", 1, pid, 3 << 13)
    simple("ptrace", 16, pid, 0, 0)
    simple("ptrace:traceme", 0, 0, 0, 0)
    for name in ("process_vm_readv", "process_vm_writev"):
        simple(name, pid, buffer, 1, buffer, 1, 0)
    simple("process_madvise", 1, buffer, 1, 4, 0)
    simple("kcmp", pid, os.getpid(), 0, 0, 0)
    simple("move_pages", pid, 0, 0, 0, 0, 0)
    simple("migrate_pages", pid, 64, buffer, buffer)
    simple("get_robust_list", pid, buffer, buffer)
    simple("fcntl:F_SETOWN", 1, 8, pid)
    simple("fcntl:F_SETSIG", 1, 10, _SIGKILL)
    simple("fcntl:F_SETLEASE", reader, 1024, 0)
    simple("fcntl:F_NOTIFY", reader, 1026, 1)
    simple("fcntl:F_SETPIPE_SZ", 1, 1031, 1 << 20)
    simple("shmget", 1, 4096, 0o1600)
    simple("shmat", 0, 0, 0)
    simple("semget", 1, 1, 0o1600)
    simple("msgget", 1, 0o1600)
    simple("mq_open", b"vidproc", 0o102, 0o600, 0)
    simple("mq_unlink", b"vidproc")

    # More processes, more rights, surviving the end.
    simple("fork")
    simple("vfork")
    simple("clone", _SIGCHLD)
    simple("clone:user", _SIGCHLD | _CLONE_NEWUSER)
    simple("clone3", buffer, 88)
    simple("setsid")
    simple("setpgid", 0, 0)
    executable = os.fsencode(program)
    simple("execve", executable, 0, 0)
    simple("execve:shell", b"/bin/sh", 0, 0)
    simple("execve:loader", b"/lib64/ld-linux-x86-64.so.2", 0, 0)
    simple("execveat", reader, b"", 0, 0, 0x1000)
    simple("memfd_create", b"x", 0)
    simple("memfd_secret", 0)
    simple("unshare", _CLONE_NEWUSER)
    simple("setns", reader, 0)
    for name in ("setuid", "setgroups", "capset", "seccomp", "landlock_create_ruleset"):
        simple(name, 0, 0, 0)
    simple("prctl:PR_SET_PDEATHSIG", 1, 0)
    simple("prctl:PR_SET_DUMPABLE", 4, 1)
    simple("prctl:PR_SET_PTRACER", 0x59616D61, -1)
    simple("personality", 0x0040000)
    simple("modify_ldt", 0, buffer, 16)

    # Files of others.
    simple("openat", at, other, os.O_RDONLY)
    simple("openat:write", at, other, os.O_WRONLY)
    simple("openat:list", at, inside, os.O_RDONLY | os.O_DIRECTORY)
    simple("openat:input-for-writing", at, mine, os.O_RDWR)
    simple("openat:new", at, inside + b"/new", os.O_CREAT | os.O_WRONLY, 0o600)
    simple("openat:O_TMPFILE", at, inside, 0o20200000 | os.O_RDWR, 0o600)
    for path in ("environ", "mem", "maps", "cmdline", "fd", "root", "task"):
        simple(f"openat:proc-{path}", at, os.fsencode(f"/proc/{pid}/{path}"), os.O_RDONLY)
    for path in ("/proc", "/proc/self/mem", "/proc/sys/kernel/core_pattern", "/dev/tty",
                 "/dev/kmsg", "/dev/shm", "/etc/passwd", "/tmp", "/", "/sys/kernel"):  # fmt: skip
        simple(f"openat:{path}", at, os.fsencode(path), os.O_RDONLY)
    simple("unlinkat", at, other, 0)
    simple("renameat2", at, other, at, inside + b"/renamed", 0)
    simple("truncate", other, 0)
    simple("link", other, inside + b"/link")
    simple("linkat", at, other, at, inside + b"/link", 0)
    simple("symlinkat", other, at, inside + b"/symlink")
    simple("mknodat", at, inside + b"/fifo", 0o010600, 0)
    simple("mkdirat", at, inside + b"/sub", 0o700)
    for name, target in (("other", other), ("input", mine)):
        simple(f"chmod:{name}", target, 0o777)
        simple(f"fchmodat:{name}", at, target, 0o777)
        simple(f"fchownat:{name}", at, target, 0, 0, 0)
        simple(f"utimensat:{name}", at, target, 0, 0)
        simple(f"setxattr:{name}", target, b"user.x", b"x", 1, 0)
        simple(f"removexattr:{name}", target, b"user.x")
    simple("fchmod", reader, 0o777)
    simple("fchown", reader, 0, 0)
    simple("fsetxattr", reader, b"user.x", b"x", 1, 0)
    simple("ioctl:FS_IOC_SETFLAGS", reader, 0x40086602, buffer)
    simple("ioctl:TIOCSTI", 0, 0x5412, b"x")
    simple("ioctl:FICLONE", reader, 0x40049409, reader)
    simple("fallocate", reader, 1, 0, 1 << 30)
    simple("name_to_handle_at", at, other, buffer, buffer, 0)
    simple("open_by_handle_at", at, buffer, 0)
    simple("inotify_init1", 0)
    simple("inotify_add_watch", 0, inside, 0xFFF)
    simple("fanotify_init", 0, 0)
    if own is not None:
        folder_of_mine = os.fsencode(own)
        simple("symlinkat:own", other, at, folder_of_mine + b"/symlink")
        simple("mknodat:own", at, folder_of_mine + b"/fifo", 0o010600, 0)
        simple("linkat:own", at, other, at, folder_of_mine + b"/link", 0)
        simple("renameat2:own", at, other, at, folder_of_mine + b"/renamed", 0)
        # Unexpected and invisible files: space beyond its share.
        given = folder_of_mine + b"/given"
        simple("openat:create-own", at, folder_of_mine + b"/new", os.O_WRONLY | os.O_CREAT, 0o600)
        simple("openat:tmpfile-own", at, folder_of_mine, os.O_WRONLY | os.O_TMPFILE, 0o600)
        simple("unlinkat:own", at, given, 0)
        simple("renameat2:out-of-sight", at, given, at, folder_of_mine + b"/hidden", 0)

    # The kernel.
    for name in ("mount", "umount2", "pivot_root", "chroot", "fsopen", "open_tree", "move_mount",
                 "mount_setattr", "keyctl", "add_key", "request_key", "bpf", "perf_event_open",
                 "userfaultfd", "io_uring_setup", "io_setup", "syslog", "swapon", "acct",
                 "sethostname", "settimeofday", "clock_settime", "adjtimex", "init_module",
                 "finit_module", "kexec_load", "quotactl", "iopl", "ioperm", "sync", "syncfs",
                 "vmsplice", "splice", "tee", "pipe2", "mlockall"):  # fmt: skip
        simple(name, 0, 0, 0, 0)
    made.append(("a call of the future", lambda: raw(900)))
    if os.uname().machine == "x86_64":
        made.append(("an x32 call", lambda: raw(0x40000000 | 39)))
        made.append(("a 32-bit call", compatibility_call))
    yield from made


def compatibility_call() -> str:
    """Make getpid as a 32-bit program would, through interrupt 0x80."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    result = function()
    return "done" if result >= 0 else errno.errorcode[-result]


def main() -> None:
    """Try everything, with the most destructive attempts last."""
    for name, attempt in attempts(**json.loads(sys.argv[1])):
        answer = attempt()
        if answer is not None:
            print(json.dumps([name, answer]), flush=True)


if __name__ == "__main__":
    main()
