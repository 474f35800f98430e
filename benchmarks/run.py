"""Every benchmark, one after the other; what they print belongs into RESULTS.md with the command and the date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

cache = Path(__file__).parent.parent / ".cache" / "hostile"  # Pillow's source and the environment of infinity-emb
for name, *options in (
    ["library.py"],
    ["job.py"],
    ["evaluation.py"],
    ["serving.py"],
    ["hostile.py", "--cache", str(cache)],
):
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).parent / name), *options], check=True)
