"""What the log needs beyond its model: transaction ids on PostgreSQL, and the mark that names this log."""

from django.db import migrations


def add_xid(apps, schema_editor):
    """Note each event's transaction, by which readers order commits (PostgreSQL 13 and later)."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE jobs_event ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()")
        schema_editor.execute("CREATE INDEX event_xid ON jobs_event (xid)")


def drop_xid(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE jobs_event DROP COLUMN xid")


def name_the_log(apps, schema_editor):
    apps.get_model("jobs", "LogEpoch").objects.get_or_create(id=1)


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]

    operations = [
        migrations.RunPython(add_xid, drop_xid),
        migrations.RunPython(name_the_log, migrations.RunPython.noop),
    ]
