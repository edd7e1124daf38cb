"""Prepares a media process from the inside, then becomes it.

Run as ``python -I -S -B launcher.py SETTING=VALUE ... -- PROGRAM [ARGUMENT ...]``, with settings
that `vidproc.ffmpeg.sandbox` writes, or as ``launcher.py --report`` to find out which layers this
machine has. Stands alone: it imports nothing of vidproc and little of the standard library, for it
is started for every command and adds its start to the command's time (json and signal alone would
double it).

    parent=PID               the process that it must be the child of
    limit=RLIMIT_NAME:VALUE  a resource limit
    nice=NUMBER              by how much everybody else goes first
    layer=NAME               landlock, seccomp or namespaces
    read=PATH, write=PATH, execute=PATH
                             for `landlock`

Each layer is given up for good before the program starts, so nothing that FFmpeg reads can take it
back: resource limits, a user and network namespace, no_new_privs, Landlock, a seccomp filter.
"""

import ctypes
import errno
import os
import resource
import struct
import sys

# The same on every Linux that is supported, and on macOS.
_SIGKILL, _SIGPIPE, _SIGXFSZ = 9, 13, 25

# From the kernel's headers (linux/prctl.h, sched.h, landlock.h, seccomp.h, audit.h, filter.h).
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_FS_EXECUTE = 1 << 0
_FS_WRITE_FILE = 1 << 1
_FS_READ_FILE = 1 << 2
_FS_READ_DIR = 1 << 3
_FS_REMOVE_FILE = 1 << 5
_FS_MAKE_REG = 1 << 8
_FS_TRUNCATE = 1 << 14
_FS_BY_ABI = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_FOR_FILES = _FS_EXECUTE | _FS_WRITE_FILE | _FS_READ_FILE | _FS_TRUNCATE
_NET_TCP = 0b11  # bind and connect
_SCOPE = 0b11  # abstract UNIX sockets and signals

SETUP_FAILED = 126

_SECCOMP_MODE_FILTER = 2
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32_BIT = 0x40000000

# What a media process has no use for: sockets, other processes, mounts, keys, kernel internals.
# Numbers from asm/unistd_64.h and asm-generic/unistd.h.
# fmt: off
_DENIED = {
    "x86_64": (0xC000003E, (
        # socket connect accept sendto sendmsg bind listen socketpair accept4
        41, 42, 43, 44, 46, 49, 50, 53, 288,
        # ptrace process_vm_readv process_vm_writev kcmp pidfd_send_signal pidfd_open pidfd_getfd
        101, 310, 311, 312, 424, 434, 438,
        # mount umount2 pivot_root chroot unshare setns open_by_handle_at name_to_handle_at
        165, 166, 155, 161, 272, 308, 304, 303,
        # keyctl add_key request_key bpf perf_event_open userfaultfd io_uring_*
        250, 248, 249, 321, 298, 323, 425, 426, 427,
        # modules, kexec, reboot, swap, acct, quotactl, syslog, clocks, personality, ports
        175, 313, 176, 246, 320, 169, 167, 168, 163, 179, 103, 164, 227, 135, 172, 173,
    )),
    "aarch64": (0xC00000B7, (
        198, 203, 202, 206, 211, 200, 201, 199, 242,
        117, 270, 271, 272, 424, 434, 438,
        40, 39, 41, 51, 97, 268, 265, 264,
        219, 217, 218, 280, 241, 282, 425, 426, 427,
        105, 273, 106, 104, 294, 142, 224, 225, 89, 60, 116, 170, 112, 92,
    )),
}
# fmt: on


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, *values: object) -> None:
    _check(_libc().prctl(option, *values, *(0,) * (4 - len(values))), f"prctl({option})")


def apply_limits(limits: dict[str, int]) -> None:
    """Set resource limits by name, soft and hard; one that is lower already stays."""
    for name, wanted in limits.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def stand_back(nice: int) -> None:
    """Raise our own nice value, and that of our session, which the scheduler counts as one."""
    os.nice(nice)
    try:
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))
    except OSError:
        pass  # no such thing here, or switched off


def unshare() -> None:
    """Leave the user's and the network's namespace: no interface, and RLIMIT_NPROC counts alone."""
    _check(_libc().unshare(_CLONE_NEWUSER | _CLONE_NEWNET), "unshare")


def landlock_abi() -> int:
    """Return the version of Landlock that the kernel has; raises `OSError` when it has none."""
    version = _libc().syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1)
    return _check(version, "landlock_create_ruleset")


def landlock(read: list[str], write: list[str], execute: list[str]) -> None:
    """Keep to these paths and what is below them; a path that does not exist is left out.

    `execute` paths may be read and run, `write` ones are folders for reading and writing files.
    """
    libc = _libc()
    abi = landlock_abi()
    handled = 0
    for since, rights in _FS_BY_ABI:
        handled |= rights if abi >= since else 0
    attribute = struct.pack("=QQQ", handled, _NET_TCP if abi >= 4 else 0, _SCOPE if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _check(libc.syscall(_LANDLOCK_CREATE_RULESET, attribute, size, 0), "landlock")
    reading = _FS_READ_FILE | _FS_READ_DIR
    writing = reading | _FS_WRITE_FILE | _FS_MAKE_REG | _FS_REMOVE_FILE | _FS_TRUNCATE
    for paths, rights in ((read, reading), (write, writing), (execute, reading | _FS_EXECUTE)):
        for path in paths:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = rights & handled
            if not os.path.isdir(path):  # noqa: PTH112 - pathlib costs 10 ms of every start
                allowed &= _FOR_FILES
            rule = struct.pack("=Qi", allowed, fd)
            _check(libc.syscall(_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), f"landlock {path}")
            os.close(fd)
    _check(libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def seccomp() -> None:
    """Answer EPERM to every system call that a media process has no use for.

    Raises `OSError` ENOSYS on a processor whose call numbers are not known here.
    """
    machine = os.uname().machine
    if machine not in _DENIED:
        raise OSError(errno.ENOSYS, f"seccomp: no list for {machine}")
    arch, denied = _DENIED[machine]
    deny = len(denied) + 3  # index of the instruction that denies
    program = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 0, deny - 1, arch), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        deny += 1
        program[1] = (_JUMP_EQUAL, 0, deny - 1, arch)
        program.append((_JUMP_AT_LEAST, deny - 3, 0, _X32_BIT))
    for number in denied:
        program.append((_JUMP_EQUAL, deny - len(program), 0, number))
    program.append((_RETURN, 0, 0, _RET_ALLOW))
    program.append((_RETURN, 0, 0, _RET_ERRNO | errno.EPERM))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in program))
    filters = struct.pack("@HP", len(program), ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filters)


def report() -> None:
    """Print the layers that hold on this machine, a line each; each is tried in a child."""
    for name, layer in _TRIALS.items():
        if _try(layer):
            print(name)


def _try(layer: object) -> bool:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if sys.platform == "linux":
                _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            status = 0 if layer() else 1  # type: ignore[operator]
        except (OSError, MemoryError, AttributeError):
            pass
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _holds_files() -> bool:
    landlock([], [], [])
    try:
        os.open(sys.executable, os.O_RDONLY)
    except PermissionError:
        return True
    return False


def _holds_sockets() -> bool:
    import socket

    seccomp()
    try:
        socket.socket()
    except PermissionError:
        return True
    return False


def _holds_network() -> bool:
    import socket

    unshare()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("127.0.0.1", 9))
        except OSError:
            return True
    return False


def _holds_memory() -> bool:
    apply_limits({"RLIMIT_AS": 256 << 20})
    try:
        bytearray(512 << 20)
    except MemoryError:
        return True
    return False


_TRIALS = {
    "landlock": _holds_files,
    "seccomp": _holds_sockets,
    "namespaces": _holds_network,
    "memory": _holds_memory,
}


def main() -> None:
    """Do as the command line says; exit with `SETUP_FAILED` when the program can't be reached."""
    if sys.argv[1] == "--report":
        report()
        return
    try:
        become()
    except (OSError, MemoryError, ValueError) as error:
        sys.stderr.write(f"launcher: {error}\n")
        sys.exit(SETUP_FAILED)


def become() -> None:
    """Give up what the program must not have, and become the program."""
    end = sys.argv.index("--")
    settings: dict[str, list[str]] = {}
    for setting in sys.argv[1:end]:
        name, _, value = setting.partition("=")
        settings.setdefault(name, []).append(value)
    layers = settings.get("layer", ())
    argv = sys.argv[end + 1 :]
    os.setsid()
    limits = [limit.split(":") for limit in settings.get("limit", ())]
    apply_limits({name: int(value) for name, value in limits})
    for nice in settings.get("nice", ()):
        stand_back(int(nice))
    if "namespaces" in layers:
        unshare()
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        # After unshare, for a change of credentials clears it.
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if [str(os.getppid())] != settings.get("parent"):
        sys.exit("launcher: the server is gone")  # it died before the death signal was set
    if "landlock" in layers:
        landlock(*(settings.get(right, []) for right in ("read", "write", "execute")))
    for number in (_SIGPIPE, _SIGXFSZ):
        _libc().signal(number, None)  # Python ignores them, and exec keeps what is ignored
    if "seccomp" in layers:
        seccomp()
    os.execve(argv[0], argv, {})  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
