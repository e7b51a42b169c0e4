"""Describe what a session follows, and the version that is offered to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.schema.sessions import OfferView, SessionView

CHANNEL_NAMES = ("stable", "candidate")
"""The channels that a session can follow."""


def describe_follow(follow: str) -> str:
    """Return a part of a sentence: which versions a session takes."""
    if not follow:
        return "keeps its version"
    if follow in CHANNEL_NAMES:
        return f"follows {follow}: takes a new version at its next start"
    return f"follows version {follow}"


def describe_offer(profile: str, offer: OfferView) -> str:
    """Return a sentence about the version that is offered to a session, without the full stop."""
    if offer.obstacle:
        return f"{profile}@{offer.version} is not taken by itself: {offer.obstacle}"
    return f"{profile}@{offer.version} is taken at the next start"


def offer_mark(view: SessionView) -> str:
    """Return what follows the version in a table, such as `, 1.3 next`; empty without an offer."""
    if view.offer is None:
        return ""
    return f", {view.offer.version} {'offered' if view.offer.obstacle else 'next'}"


def upgrade_rows(view: SessionView) -> list[tuple[str, str]]:
    """Return the rows of `berth show` about versions."""
    rows = [("versions", describe_follow(view.follow))] if view.follow else []
    if view.offer is not None:
        rows.append(("offered", describe_offer(view.profile, view.offer)))
        rows += [(title, ", ".join(names)) for title, names in _own(view.offer) if names]
    return rows


def _own(offer: OfferView) -> list[tuple[str, list[str]]]:
    return [("its packages", offer.packages), ("its files", offer.files)]
