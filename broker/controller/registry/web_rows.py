"""Rows of logged-in browsers and their visits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, or_, select, update

from broker.controller.registry.models import Session
from broker.controller.registry.transactions import Transactions, column
from broker.controller.registry.web_models import Delegation, UsedLogoutToken, Visit
from broker.errors import TooManyError

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Select
    from sqlmodel import Session as DBSession

    from broker.schema.states import SessionState


class WebRows(Transactions):
    """Queries on the tables `delegation` and `visit`."""

    def add_delegation(self, delegation: Delegation, most: int) -> None:
        """Add a delegation. TooManyError if its user has `most` of them that are valid."""
        count = select(func.count()).where(
            column(Delegation.user) == delegation.user, column(Delegation.expires_at) > delegation.created_at
        )
        with self.transaction() as db:
            if db.execute(count).scalar_one() >= most:
                raise TooManyError(
                    f"limit of logged-in browsers reached ({most})",
                    hint="`berth browsers` lists them, `berth browsers --logout-all` logs all of them out",
                )
            db.add(delegation)

    def find_delegation(self, secret_hash: str, at: float) -> Delegation | None:
        """Return the delegation with that secret, if it is valid at that time."""
        query = select(Delegation).where(
            column(Delegation.secret_hash) == secret_hash, column(Delegation.expires_at) > at
        )
        with self.transaction() as db:
            return db.execute(query).scalar_one_or_none()

    def note_delegation_use(self, delegation_id: str, at: float) -> None:
        with self.transaction() as db:
            statement = update(Delegation).where(column(Delegation.id) == delegation_id).values(used_at=at)
            db.connection().execute(statement)

    def delegations_of(self, user: str, at: float) -> list[Delegation]:
        """Return the user's delegations that are valid at that time, oldest first."""
        query = select(Delegation).where(column(Delegation.user) == user, column(Delegation.expires_at) > at)
        return self.all_rows(query.order_by(column(Delegation.id)))

    def end_delegations(self, user: str, delegation_id: str | None = None) -> list[Delegation]:
        """Remove one or all delegations of a user, and their visits. Return the removed delegations."""
        query = select(Delegation).where(column(Delegation.user) == user)
        if delegation_id is not None:
            query = query.where(column(Delegation.id) == delegation_id)
        with self.transaction() as db:
            return self._remove(db, query)

    @staticmethod
    def _remove(db: DBSession, query: Select[Any]) -> list[Delegation]:
        """Remove delegations and their visits. Return the delegations."""
        ended = list(db.execute(query.order_by(column(Delegation.id)).with_for_update()).scalars())
        ids = [each.id for each in ended]
        db.connection().execute(delete(Visit).where(column(Visit.delegation_id).in_(ids)))
        db.connection().execute(delete(Delegation).where(column(Delegation.id).in_(ids)))
        return ended

    def end_provider_logins(
        self, issuer: str, subject: str, session: str, *, token_hash: str, forget_at: float
    ) -> list[Delegation] | None:
        """Remove the delegations that a logout token names, with their visits. Return them; None for a used token.

        The token counts as used until `forget_at`. Without `session` it names all logins of the subject; with both,
        also those of the subject without a known session.
        """
        query = select(Delegation).where(column(Delegation.issuer) == issuer)
        if subject:
            query = query.where(column(Delegation.subject) == subject)
        if session:
            known = column(Delegation.provider_session)
            query = query.where(or_(known == session, known == "") if subject else known == session)
        with self.transaction() as db:
            if db.get(UsedLogoutToken, token_hash) is not None:
                return None
            db.add(UsedLogoutToken(token_hash=token_hash, forget_at=forget_at))
            return self._remove(db, query)

    def forget_delegations(self, before: float) -> int:
        """Remove the delegations that expired before that time, with their visits. Return the number of delegations.

        Logout tokens that are too old are forgotten too.
        """
        tokens = delete(UsedLogoutToken).where(column(UsedLogoutToken.forget_at) <= before)
        old = select(column(Delegation.id)).where(column(Delegation.expires_at) <= before)
        with self.transaction() as db:
            db.connection().execute(tokens)
            db.connection().execute(delete(Visit).where(column(Visit.delegation_id).in_(old)))
            return db.connection().execute(delete(Delegation).where(column(Delegation.expires_at) <= before)).rowcount

    def add_visit(self, visit: Visit, most: int) -> list[str] | None:
        """Add a visit in place of its delegation's earlier one to the same service.

        Return the ids of the visits that it replaces; None if its delegation has ended. TooManyError if its user has
        `most` other visits that are valid.
        """
        user, valid = column(Visit.user) == visit.user, column(Visit.expires_at) > visit.created_at
        with self.transaction() as db:
            lock = select(column(Delegation.id)).where(column(Delegation.id) == visit.delegation_id).with_for_update()
            if db.execute(lock).scalar_one_or_none() is None:
                return None
            replaced = list(db.execute(select(column(Visit.id)).where(*_same_service(visit))).scalars())
            db.connection().execute(delete(Visit).where(*_same_service(visit)))
            if db.execute(select(func.count(column(Visit.id))).where(user, valid)).scalar_one() >= most:
                raise TooManyError(
                    f"limit of opened services reached ({most})",
                    hint="`berth browsers` lists your logged-in browsers: log out those that you do not use",
                )
            db.add(visit)
        return replaced

    def find_visit(self, secret_hash: str, at: float) -> Visit | None:
        """Return the visit with that secret, if it is valid at that time."""
        query = select(Visit).where(column(Visit.secret_hash) == secret_hash, column(Visit.expires_at) > at)
        with self.transaction() as db:
            return db.execute(query).scalar_one_or_none()

    def valid_visits(self, ids: Collection[str], at: float) -> list[str]:
        """Return those of the ids that belong to visits which are valid at that time."""
        known = column(Visit.id)
        return self.all_rows(select(known).where(known.in_(list(ids)), column(Visit.expires_at) > at))

    def visited_services(self, user: str) -> list[tuple[str, str]]:
        """Return session id and service of each present visit of the user, each pair once."""
        query = select(column(Visit.session_id), column(Visit.service)).where(column(Visit.user) == user).distinct()
        with self.transaction() as db:
            return [(row[0], row[1]) for row in db.execute(query)]

    def visited_sessions(self) -> list[str]:
        """Return the ids of the sessions that have visits."""
        return self.all_rows(select(column(Visit.session_id)).distinct())

    def guest_visits(self, session_id: str | None = None) -> list[Visit]:
        """Return the visits of other users to one or all sessions, oldest first."""
        query = select(Visit).join(Session, column(Session.id) == column(Visit.session_id))
        query = query.where(column(Session.owner) != column(Visit.user))
        if session_id is not None:
            query = query.where(column(Visit.session_id) == session_id)
        return self.all_rows(query.order_by(column(Visit.created_at), column(Visit.id)))

    def remove_visits(self, ids: Collection[str]) -> None:
        with self.transaction() as db:
            db.connection().execute(delete(Visit).where(column(Visit.id).in_(list(ids))))

    def end_visits(self, states: Collection[SessionState]) -> list[str]:
        """Remove the visits of sessions in these states, and of unknown sessions. Return their ids."""
        lasting = select(column(Session.id)).where(column(Session.state).not_in(list(states)))
        query = select(column(Visit.id)).where(column(Visit.session_id).not_in(lasting))
        with self.transaction() as db:
            ended = list(db.execute(query).scalars())
            if ended:
                db.connection().execute(delete(Visit).where(column(Visit.id).in_(ended)))
            return ended


def _same_service(visit: Visit) -> tuple[Any, ...]:
    """Return the conditions for the visits of the same delegation to the same service."""
    return tuple(
        column(getattr(Visit, name)) == getattr(visit, name) for name in ("delegation_id", "session_id", "service")
    )
