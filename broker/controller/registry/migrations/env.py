"""Alembic's entry point. The connection comes from `registry.migrate`, in whose transaction everything runs."""

from alembic import context
from sqlmodel import SQLModel

from broker.controller.registry import connection_model, credential_models, event_model, models, web_models  # noqa: F401 - importing them fills the metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
