"""Prepares a media process from inside, then becomes it.

Run as ``python -I -S -B launcher.py SETTING=VALUE ... -- PROGRAM [ARGUMENT ...]``, with settings
from `vidproc.ffmpeg.sandbox`, or as ``launcher.py --report [SECCOMP]`` to find out which layers
this machine supports. It imports nothing of vidproc and little of the standard library, because it
is started for every command and its startup adds to the command's time (json and signal alone would
double it).

    parent=PID               the process that must be its parent
    limit=RLIMIT_NAME:VALUE  a resource limit
    nice=NUMBER              the nice value
    chdir=PATH               the working directory
    layer=NAME               landlock, seccomp, namespaces or ipc
    seccomp=HEXADECIMAL      the filter, for `seccomp`
    read=PATH, write=PATH, execute=PATH
                             for `landlock`
    create=PATH              a file to create first, since `landlock` can only name existing ones
    ready=DESCRIPTOR         where to write "." when the program starts, and "!" if it cannot; the
                             program does not get it
    script=yes, import=PATH  PROGRAM is a Python script that needs packages from PATH

All layers are applied irrevocably before the program starts, so no input can make FFmpeg undo them:
resource limits, namespaces, capabilities, no_new_privs, Landlock, a seccomp filter.

A script is imported first, with all its imports, and its `main` is called when all layers are
active. So it needs permission neither to start a program nor to read its own modules.
"""

import ctypes
import errno
import os
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The same on all supported Linux systems, and on macOS.
_SIGKILL, _SIGPIPE, _SIGXFSZ = 9, 13, 25

# From the kernel's headers (linux/prctl.h, sched.h, landlock.h, seccomp.h, audit.h, filter.h).
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522

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
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ARGUMENTS = 16  # their offset in struct seccomp_data; the lower half of each comes first

_OOM_SCORE_ADJ = 1000
"""When memory runs out, the kernel kills media processes before anything else."""

# By machine: execve, kill, tgkill (asm/unistd_64.h, asm-generic/unistd.h).
_OWN_CALLS = {"x86_64": (59, 62, 234), "aarch64": (221, 129, 131)}


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, *values: object) -> None:
    _check(_libc().prctl(option, *values, *(0,) * (4 - len(values))), f"prctl({option})")


def apply_limits(limits: dict[str, int]) -> None:
    """Set resource limits by name, soft and hard; a lower existing limit stays."""
    for name, wanted in limits.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def stand_back(nice: int) -> None:
    """Raise our nice value, and that of our session, which the scheduler treats as a unit."""
    os.nice(nice)
    try:
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))
    except OSError:
        pass  # not supported here, or disabled


def offer_to_the_oom_killer() -> None:
    """Make the kernel kill this process first when memory runs out; raising the score is always
    allowed."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(_OOM_SCORE_ADJ))


def unshare(ipc: bool = False) -> None:
    """Enter new user and network namespaces: no network interface, and RLIMIT_NPROC counts only
    this process.

    With `ipc` also a namespace without the shared memory and message queues of others.
    """
    flags = _CLONE_NEWUSER | _CLONE_NEWNET | (_CLONE_NEWIPC if ipc else 0)
    _check(_libc().unshare(flags), "unshare")


def drop_capabilities() -> None:
    """Drop all capabilities: root's own, or those that came with the user namespace."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc().capset(header, bytes(24)), "capset")


def die_with(parent: list[str]) -> None:
    """Have the kernel kill this process when its `parent` dies; exit if it is dead already."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if [str(os.getppid())] != parent:
        sys.exit("launcher: the server is gone")  # it died before the death signal was set


def create(paths: list[str]) -> None:
    """Make these files, unless they are there; raises `OSError` ELOOP for a link."""
    for path in paths:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))


def landlock_abi() -> int:
    """Return the kernel's Landlock version; raises `OSError` if it has none."""
    version = _libc().syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1)
    return _check(version, "landlock_create_ruleset")


def landlock(read: list[str], write: list[str], execute: list[str]) -> None:
    """Allow only these paths and everything below them; paths that do not exist are skipped.

    `execute` paths may be read and executed; `write` paths are folders for reading and writing
    files.
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


def seccomp(program: bytes, secret: "tuple[int, int] | None" = None) -> None:
    """Allow only the system calls of `program`; signals only to itself.

    `program` is an array of ``struct sock_filter``. execve is refused unless the caller knows the
    `secret`: a pair of 32-bit numbers in the last two arguments, which execve does not use. Raises
    `OSError` ENOSYS on a processor whose system call numbers are not known here.
    """
    machine = os.uname().machine
    if machine not in _OWN_CALLS:
        raise OSError(errno.ENOSYS, f"seccomp: no call numbers for {machine}")
    execve, *signals = _OWN_CALLS[machine]
    refuse = (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _RET_ALLOW)
    if secret is None:
        starting = [refuse]
    else:
        starting = [
            (_LOAD, 0, 0, _ARGUMENTS + 4 * 8),
            (_JUMP_EQUAL, 0, 3, secret[0]),
            (_LOAD, 0, 0, _ARGUMENTS + 5 * 8),
            (_JUMP_EQUAL, 0, 1, secret[1]),
            allow,
            refuse,
        ]
    own = [(_LOAD, 0, 0, 0), (_JUMP_EQUAL, 0, len(starting), execve), *starting]
    own += [
        (_JUMP_EQUAL, 2, 0, signals[0]),
        (_JUMP_EQUAL, 1, 0, signals[1]),
        allow,
        (_LOAD, 0, 0, _ARGUMENTS),
        (_JUMP_EQUAL, 0, 1, os.getpid()),
        allow,
        refuse,
    ]
    _install(b"".join(struct.pack("=HBBI", *instruction) for instruction in own))
    _install(program)  # last, because it may forbid adding another


def _install(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    filters = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filters)


def report() -> None:
    """Print the layers that work on this machine, one per line; each is tested in a child."""
    for name, layer in _TRIALS.items():
        if _try(layer):
            print(name)


def _try(layer: "Callable[[], object]") -> bool:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if sys.platform == "linux":
                _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            status = 0 if layer() else 1
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

    seccomp(bytes.fromhex(sys.argv[2]))
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


def _holds_ipc() -> bool:
    before = os.stat("/proc/self/ns/ipc").st_ino  # noqa: PTH116
    unshare(ipc=True)
    return os.stat("/proc/self/ns/ipc").st_ino != before  # noqa: PTH116


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
    "ipc": _holds_ipc,
    "memory": _holds_memory,
}


def main() -> None:
    """Run the command line; exit with `SETUP_FAILED` if the program cannot be started."""
    if sys.argv[1] == "--report":
        report()
        return
    run_in_layers(*parse(sys.argv[1:]))


def parse(words: list[str]) -> "tuple[dict[str, list[str]], list[str]]":
    """Return the settings of a command line, by name, and the program with its arguments."""
    end = words.index("--")
    settings: dict[str, list[str]] = {}
    for setting in words[:end]:
        name, _, value = setting.partition("=")
        settings.setdefault(name, []).append(value)
    return settings, words[end + 1 :]


def run_in_layers(
    settings: dict[str, list[str]], argv: list[str], run: "Callable[[], None] | None" = None
) -> None:
    """Apply all restrictions and become the program, or call the script's `main`.

    `run` is that function, if the script is imported already (by `vidproc.ffmpeg.fork_server`).
    Exits with `SETUP_FAILED` if the program cannot be started.
    """
    try:
        run = become(settings, argv, run)
    except (OSError, MemoryError, ValueError) as error:
        sys.stderr.write(f"launcher: {error}\n")
        sys.exit(SETUP_FAILED)
    run()


def become(
    settings: dict[str, list[str]], argv: list[str], run: "Callable[[], None] | None"
) -> "Callable[[], None]":
    """Apply all restrictions and become the program. For a script, return the function to call."""
    layers = settings.get("layer", ())
    os.setsid()
    for folder in settings.get("chdir", ()):
        os.chdir(folder)
    ready = keep_to_ourselves(settings.get("ready", []))
    limits = [limit.split(":") for limit in settings.get("limit", ())]
    apply_limits({name: int(value) for name, value in limits})
    for nice in settings.get("nice", ()):
        stand_back(int(nice))
    if sys.platform == "linux":
        offer_to_the_oom_killer()
    if run is not None:
        sys.argv = argv
    elif "script" in settings:
        run = load(argv, settings.get("import", []))
    create(settings.get("create", []))
    if "namespaces" in layers:
        unshare("ipc" in layers)
    if sys.platform == "linux":
        drop_capabilities()
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    die_with(settings.get("parent", []))  # after unshare: changing credentials clears it
    if "landlock" in layers:
        landlock(*(settings.get(right, []) for right in ("read", "write", "execute")))
    for number in (_SIGPIPE, _SIGXFSZ):
        _libc().signal(number, None)  # Python ignores them, and exec keeps ignored signals ignored
    secret = None
    if "seccomp" in layers:
        secret = struct.unpack("=II", os.urandom(8)) if run is None else None
        seccomp(bytes.fromhex(settings["seccomp"][0]), secret)
    return start(argv, run, secret, ready)


def start(
    argv: list[str],
    run: "Callable[[], None] | None",
    secret: "tuple[int, int] | None",
    ready: list[int],
) -> "Callable[[], None]":
    """Become the program, or return `run` if it is a script; report that on `ready`."""
    tell(ready, b".")
    if run is not None:
        for number in ready:
            os.close(number)
        return run
    try:
        execute(argv, secret)
    finally:
        tell(ready, b"!")
    raise AssertionError("execve has returned")


def keep_to_ourselves(descriptors: list[str]) -> list[int]:
    """Have the kernel close these descriptors when the program starts; return their numbers."""
    numbers = [int(number) for number in descriptors]
    for number in numbers:
        os.set_inheritable(number, False)
    return numbers


def tell(descriptors: list[int], what: bytes) -> None:
    """Write to the descriptors of `ready`."""
    for number in descriptors:
        os.write(number, what)


def load(argv: list[str], path: list[str]) -> "Callable[[], None]":
    """Import the script `argv`[0], which sees `argv` as its own; return its `main`.

    It can import packages from the folders `path`. Raises `OSError` if it has started threads.
    """
    import importlib.machinery
    import importlib.util

    sys.path += path
    name = os.path.basename(argv[0]).removesuffix(".py")  # noqa: PTH119
    loader = importlib.machinery.SourceFileLoader(name, argv[0])
    spec = importlib.machinery.ModuleSpec(name, loader, origin=argv[0])
    module = importlib.util.module_from_spec(spec)
    sys.argv = argv
    loader.exec_module(module)
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1  # noqa: PTH208
    if threads != 1:
        raise OSError(errno.EBUSY, "the script started threads, which no layer would hold")
    main: Callable[[], None] = module.main
    return main


def execute(argv: list[str], secret: "tuple[int, int] | None") -> None:
    """Become the program, with an empty environment; raises `OSError`.

    The program cannot do so again: the filter requires the `secret`, which is lost with our memory.
    """
    if secret is None:
        os.execve(argv[0], argv, {})  # noqa: S606 - no shell is the point
        return
    words = (ctypes.c_char_p * (len(argv) + 1))(*(os.fsencode(word) for word in argv), None)
    nothing = (ctypes.c_char_p * 1)(None)
    number = ctypes.c_long(_OWN_CALLS[os.uname().machine][0])
    path = ctypes.c_char_p(os.fsencode(argv[0]))
    unused = ctypes.c_long(0)
    last = (ctypes.c_ulong(word) for word in secret)
    _check(_libc().syscall(number, path, words, nothing, unused, *last), f"execve {argv[0]}")


if __name__ == "__main__":
    main()
