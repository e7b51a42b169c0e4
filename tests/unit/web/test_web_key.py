"""The key of berth-web."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import BerthError
from broker.web.tunnel import WebKey

if TYPE_CHECKING:
    from pathlib import Path


def test_missing_ssh_keygen_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BerthError, match=r"cannot make its ssh key: .*ssh-keygen") as raised:
        asyncio.run(WebKey(tmp_path).make())
    assert "openssh-client" in raised.value.hint


def test_failing_ssh_keygen_is_said(tmp_path: Path) -> None:
    with pytest.raises(BerthError, match=r"cannot make its ssh key: .*No such file"):
        asyncio.run(WebKey(tmp_path / "nowhere").make())
