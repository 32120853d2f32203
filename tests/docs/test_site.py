"""The documentation builds: every page is in the navigation, every link leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pages import ROOT


def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "index.html").exists()
