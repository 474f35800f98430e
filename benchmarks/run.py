"""Every benchmark, one after the other; what they print belongs into RESULTS.md with the command and the date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

for name in ("library.py", "job.py", "evaluation.py"):
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).parent / name)], check=True)
