"""Rows of public keys and user certificates."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from broker.controller.registry.credential_models import Certificate, Key
from broker.controller.registry.transactions import Transactions, column
from broker.errors import ConflictError, NotFoundError


class CredentialRows(Transactions):
    """Queries on the tables `key` and `certificate`."""

    def keys_of(self, owner: str) -> list[Key]:
        return self.all_rows(select(Key).where(column(Key.owner) == owner).order_by(column(Key.added_at)))

    def add_key(self, key: Key) -> Key:
        """Add a public key; ConflictError if its owner has it already."""
        try:
            with self.transaction() as db:
                db.add(key)
        except IntegrityError as error:
            raise ConflictError(f"you have added the key {key.fingerprint} already") from error
        return key

    def remove_key(self, owner: str, fingerprint: str) -> Key:
        query = select(Key).where(column(Key.owner) == owner, column(Key.fingerprint) == fingerprint)
        with self.transaction() as db:
            key: Key | None = db.execute(query).scalar_one_or_none()
            if key is None:
                raise NotFoundError(f"you have added no key {fingerprint}", hint="`berth key list` shows them")
            db.delete(key)
            return key

    def issue_certificate(self, certificate: Certificate) -> Certificate:
        """Store the certificate in place of the last one for the same key. The later of the two ends counts."""
        with self.transaction() as db:
            before = db.get(Certificate, (certificate.owner, certificate.fingerprint))
            if before is not None:
                certificate.valid_before = max(certificate.valid_before, before.valid_before)
            return db.merge(certificate)

    def certificates_of(self, owner: str, at: float) -> list[Certificate]:
        """Return the certificates that are not expired at that time, including revoked ones, oldest first."""
        query = select(Certificate).where(column(Certificate.owner) == owner, column(Certificate.valid_before) > at)
        return self.all_rows(query.order_by(column(Certificate.issued_at)))

    def revoke_certificates(self, owner: str, fingerprint: str | None, at: float) -> list[Certificate]:
        """Revoke the certificate for that key, or all. Return those that were valid until now."""
        with self.transaction() as db:
            query = select(Certificate).where(
                column(Certificate.owner) == owner,
                column(Certificate.valid_before) > at,
                column(Certificate.revoked_at).is_(None),
            )
            if fingerprint is not None:
                query = query.where(column(Certificate.fingerprint) == fingerprint)
            rows = list(db.execute(query).scalars())
            for row in rows:
                row.revoked_at = at
            return rows
