"""Brings a store that an older version of the site has made to today's tables; nothing in it is lost."""

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn

from rlhf_jax.feedback.schema import VERSION, answers, metadata, splits, tasks
from rlhf_jax.feedback.splits import by_hash
from rlhf_jax.feedback.tasks import info_of


def migrate(db: sa.Connection) -> None:
    """Adds the tables, columns and indexes that the store lacks."""
    there = sa.inspect(db)
    for name in there.get_table_names():
        known = {column["name"] for column in there.get_columns(name)}
        for column in metadata.tables[name].columns:
            if column.name not in known:
                added = CreateColumn(column).compile(dialect=db.dialect)
                db.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {added}")
        for index in metadata.tables[name].indexes:
            index.create(db, checkfirst=True)
    metadata.create_all(db)
    _keep_splits(db)
    db.exec_driver_sql(f"PRAGMA user_version = {VERSION}")


def _keep_splits(db: sa.Connection) -> None:
    """What version 1 has exported stays in its split, which was drawn by a hash of the post's id."""
    rows = db.execute(sa.select(tasks.c.kind, tasks.c.record).join(answers).distinct())
    found = {(kind, info_of(record).id) for kind, record in rows if not record.get("split")}
    if found:
        db.execute(splits.insert(), [{"kind": k, "post": p, "split": by_hash(p)} for k, p in sorted(found)])
