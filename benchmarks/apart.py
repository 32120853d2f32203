"""An environment of its own for peers that want another version of what we use, too."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["python_apart"]

_ROOT = Path(__file__).resolve().parents[1]
_PLACE = Path(sys.prefix) / "bench-apart"


@cache
def python_apart() -> str:
    """The interpreter of the group `bench-apart` of pyproject.toml, made on first use."""
    uv = Path(sys.prefix) / "bin" / "uv"
    subprocess.run(
        [uv, "sync", "--quiet", "--frozen", "--only-group", "bench-apart"],
        cwd=_ROOT,
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(_PLACE), "UV_PYTHON": sys.executable},
        check=True,
    )
    return str(_PLACE / "bin" / "python")
