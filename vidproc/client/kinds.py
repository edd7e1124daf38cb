"""The file extensions that a result may get.

The server sends the media type, and a hostile one may send ``sh`` or ``desktop``. Anything that is
not in this list becomes ``bin``, which no system opens or runs automatically.
"""

from __future__ import annotations

import re

_VIDEO = (
    "3g2 3gp asf avi dv f4v flv m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf nut ogm ogv ts vob webm"
    " wmv"
)
_AUDIO = "aac ac3 aif aiff caf eac3 flac m4a m4b mka mp2 mp3 oga ogg opus wav weba wma"
_IMAGE = "apng avif bmp gif jpeg jpg png tif tiff webp"

VIDEO_KINDS = frozenset(_VIDEO.split())
"""The extensions by which videos in a folder are recognised."""

MEDIA_KINDS = frozenset(f"{_VIDEO} {_AUDIO} {_IMAGE}".split())
UNKNOWN = "bin"

MEDIA_TYPE = re.compile(r"[A-Za-z0-9]{1,16}", re.ASCII)
"""The media types of inputs that the protocol accepts: file extensions without the dot."""


def safe_kind(kind: str) -> str:
    """Return the file extension for a result whose media type is `kind`."""
    kind = kind.lower()
    return kind if kind in MEDIA_KINDS else UNKNOWN
