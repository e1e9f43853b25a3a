"""The document of measured promises is what the stored figures say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_tables_of_promises_are_those_of_the_stored_figures():
    script = ROOT / "benchmarks" / "trust.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr or "run: python benchmarks/trust.py --write"
