"""Makes `twistd vidproc` known to twistd."""

from twisted.application.service import ServiceMaker

serviceMaker = ServiceMaker(
    "vidproc",
    "vidproc.tap",
    "A video processing service over TCP.",
    "vidproc",
)
