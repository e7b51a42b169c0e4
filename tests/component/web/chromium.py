"""Chromium for tests: the program of the system."""

from __future__ import annotations

import shutil

CHROMIUM = shutil.which("chromium") or "chromium is not installed: `make test-programs` installs it"
NO_SANDBOX = "--no-sandbox"
"""Chromium needs it as root; it opens nothing but pages of these tests."""
