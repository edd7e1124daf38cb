"""Write the conversation down: ``python -m tests.wire.record FILE``, in a checkout of the version
whose answers are the promise."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.wire.conversation import play, steps

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        answers = play(Path(folder) / "data")
    exchanges = [
        {"step": step, "answers": found} for step, found in zip(steps(), answers, strict=True)
    ]
    Path(sys.argv[1]).write_text(json.dumps(exchanges, indent=1, ensure_ascii=False) + "\n")
