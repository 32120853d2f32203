"""A plugin of pytest: the library without the guard named by `TASKLOOM_TEST_WITHOUT`."""

from __future__ import annotations

import os

from planted import remove_guard

remove_guard(os.environ.get("TASKLOOM_TEST_WITHOUT", ""))
