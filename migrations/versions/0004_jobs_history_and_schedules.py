"""What becomes of jobs, paused queues, and schedules

Revision ID: a1f0c2d40004
Revises: a1f0c2d40003
"""

import sqlalchemy as sa
from alembic import op

revision = "a1f0c2d40004"
down_revision = "a1f0c2d40003"
branch_labels = None
depends_on = None

_is_unique = sa.text("unique_key IS NOT NULL AND finished_at IS NULL")
_is_owned = sa.text("created_by IS NOT NULL")


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("unique_key", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("kills", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("progress", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("progress_message", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("result", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("history", sa.JSON(), server_default="[]", nullable=False))
        batch_op.create_index(
            "ix_jobs_unique_key",
            ["unique_key"],
            unique=True,
            postgresql_where=_is_unique,
            sqlite_where=_is_unique,
        )
        batch_op.create_index(
            "ix_jobs_created_by",
            ["created_by", "id"],
            unique=False,
            postgresql_where=_is_owned,
            sqlite_where=_is_owned,
        )

    op.create_table(
        "job_queues",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_job_queues")),
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("job", sa.String(length=200), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("timing", sa.String(length=200), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("missed", sa.String(length=10), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("handled_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_schedules")),
    )
    op.create_table(
        "schedule_runs",
        sa.Column("schedule", sa.String(length=200), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("schedule", "due_at", name=op.f("pk_schedule_runs")),
    )
    with op.batch_alter_table("schedule_runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_schedule_runs_due_at"), ["due_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("schedule_runs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_schedule_runs_due_at"))

    op.drop_table("schedule_runs")
    op.drop_table("schedules")
    op.drop_table("job_queues")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_jobs_created_by", postgresql_where=_is_owned, sqlite_where=_is_owned
        )
        batch_op.drop_index(
            "ix_jobs_unique_key", postgresql_where=_is_unique, sqlite_where=_is_unique
        )
        batch_op.drop_column("history")
        batch_op.drop_column("result")
        batch_op.drop_column("progress_message")
        batch_op.drop_column("progress")
        batch_op.drop_column("kills")
        batch_op.drop_column("unique_key")
