"""Detects stalled commands: a pure object, fed by the runner."""

from __future__ import annotations

from vidproc.ffmpeg.command import Progress

_LEAST_CPU_SHARE = 0.01
"""CPU seconds per second from which a process counts as working. One that waits for input needs
a little just for its reports."""
_LEAST_CPU_TIME = 0.05
"""CPU seconds below which nothing is concluded: the kernel counts in steps of 0.01."""


class Watchdog:
    """Detects a command that makes no progress and uses no CPU time for `timeout` seconds.

    Reports alone are not a sign of life, because FFmpeg keeps reporting even when it waits forever.
    Progress alone is not enough either: palettegen and encoder lookahead report the same frame for
    a long time. Times are seconds of a monotonic clock.
    """

    def __init__(self, timeout: float, now: float) -> None:
        self._timeout = timeout
        self._alive_at = now
        self._cpu_time = 0.0
        self._out_time = 0.0
        self._frame = 0

    def reported(self, progress: Progress, now: float) -> None:
        """Record a progress report of the command."""
        if (progress.out_time or 0.0) > self._out_time or (progress.frame or 0) > self._frame:
            self._out_time = max(self._out_time, progress.out_time or 0.0)
            self._frame = max(self._frame, progress.frame or 0)
            self._alive_at = now

    def sampled(self, cpu_time: float, now: float) -> None:
        """Record the CPU time, in seconds, that the command has used since its start."""
        used = cpu_time - self._cpu_time
        if used >= max(_LEAST_CPU_TIME, _LEAST_CPU_SHARE * (now - self._alive_at)):
            self._cpu_time = cpu_time
            self._alive_at = now

    def stalled(self, now: float) -> bool:
        """Return whether the command has shown no sign of life for the timeout."""
        return now - self._alive_at >= self._timeout
