"""The user's choices, kept in an XDG file: theme, columns, sorting, grouping, the detail pane."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from broker.config.file import xdg_directory

if TYPE_CHECKING:
    from pathlib import Path

THEMES = ("auto", "dark", "light")
"""`auto`: as the terminal says in COLORFGBG, else dark."""


@dataclass(frozen=True, slots=True)
class TuiSettings:
    """Choices that outlive the program. Names that this version does not know are kept out when they are used."""

    theme: str = "auto"
    columns: tuple[str, ...] = ()
    """Ids of the columns that the user chose, in order; empty: the default ones."""
    sort: str = "name"
    reverse: bool = False
    group: str = ""
    detail: bool = True
    """Whether wide windows show the chosen session beside the list."""

    def is_dark(self, environment: dict[str, str] | os._Environ[str] = os.environ) -> bool:
        """Whether the dark theme is used. COLORFGBG ends with the terminal's background: 7 and 15 are white."""
        if self.theme != "auto":
            return self.theme != "light"
        return environment.get("COLORFGBG", "").rpartition(";")[2] not in {"7", "15"}


def settings_path() -> Path:
    return xdg_directory("XDG_CONFIG_HOME", ".config") / "berth" / "tui.json"


def load_settings(path: Path) -> tuple[TuiSettings, str]:
    """Return the settings, and a warning for the user if the file cannot be used; then the defaults are returned."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return TuiSettings(), ""
    except (OSError, ValueError) as error:
        return TuiSettings(), f"cannot read {path}: {error}; using the defaults"
    if not isinstance(values, dict):
        return TuiSettings(), f"{path} is not a JSON object; using the defaults"
    return _parse(values, path)


def _parse(values: dict[str, object], path: Path) -> tuple[TuiSettings, str]:
    defaults = TuiSettings()
    accepted: dict[str, object] = {}
    wrong: list[str] = []
    for field in fields(TuiSettings):
        if field.name not in values:
            continue
        value = values[field.name]
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = tuple(value)
        default = getattr(defaults, field.name)
        if type(value) is not type(default) or (field.name == "theme" and value not in THEMES):
            wrong.append(field.name)
        else:
            accepted[field.name] = value
    warning = f"{path}: invalid {', '.join(wrong)}; using the default" if wrong else ""
    return TuiSettings(**accepted), warning  # type: ignore[arg-type]  # the types were compared above


def save_settings(settings: TuiSettings, path: Path) -> str:
    """Replace the file in one step; return a warning for the user if that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        return f"cannot save the settings: {error.strerror or error}"
    return ""
