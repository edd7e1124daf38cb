"""The kinds of file that a result may be named after.

The server says the kind, and a hostile one may say ``sh`` or ``desktop``: what is not in this list
is called ``bin``, which nothing runs or opens by itself.
"""

from __future__ import annotations

import re

_VIDEO = (
    "3g2 3gp asf avi dv f4v flv m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf nut ogm ogv ts vob webm"
    " wmv"
)
_AUDIO = "aac ac3 aif aiff caf eac3 flac m4a m4b mka mp2 mp3 oga ogg opus wav weba wma"
_IMAGE = "apng avif bmp gif jpeg jpg png tif tiff webp"

MEDIA_KINDS = frozenset(f"{_VIDEO} {_AUDIO} {_IMAGE}".split())
UNKNOWN = "bin"

MEDIA_TYPE = re.compile(r"[A-Za-z0-9]{1,16}", re.ASCII)
"""What the protocol takes as the kind of an input: a file name's extension without the dot."""


def safe_kind(kind: str) -> str:
    """Return a file name's extension for a result of `kind`, as the server calls it."""
    kind = kind.lower()
    return kind if kind in MEDIA_KINDS else UNKNOWN
