"""The actions that the frame offers: it binds their keys, lists them, asks if they are allowed, and has them run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tui.core.keys import LIST_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.schema.sessions import SessionView
    from tui.app import BerthApp
    from tui.core.catalogue_action import CatalogueAction

    Run = Callable[[BerthApp, CatalogueAction, list[SessionView]], None]


@dataclass(frozen=True)
class Catalogue:
    """Actions, and the function that runs one: it may push a screen, and returns at once."""

    actions: Sequence[CatalogueAction] = ()
    run: Run = field(default=lambda _app, _action, _sessions: None)

    def __post_init__(self) -> None:
        taken = {key for binding in LIST_KEYS for key in binding.keys}
        for action in self.actions:
            if action.key in taken:
                raise ValueError(f"the key {action.key} of {action.id} is taken")
            if action.key:
                taken.add(action.key)

    def find(self, identifier: str) -> CatalogueAction:
        return next(action for action in self.actions if action.id == identifier)
