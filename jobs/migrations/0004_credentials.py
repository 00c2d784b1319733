import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import jobs.models


def name_tokens(apps, schema_editor):
    """Give each token that there is an id of its own."""
    tokens = apps.get_model("jobs", "Token").objects
    for digest in tokens.filter(id__isnull=True).values_list("pk", flat=True):
        tokens.filter(pk=digest).update(id=jobs.models.new_id())


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("jobs", "0003_engine"),
        ("sessions", "0001_initial"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(model_name="token", name="id", field=models.UUIDField(editable=False, null=True)),
        migrations.RunPython(name_tokens, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="token",
            name="id",
            field=models.UUIDField(
                default=jobs.models.new_id, editable=False, help_text="its name in the API", unique=True
            ),
        ),
        migrations.AddField(
            model_name="token",
            name="job",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to="jobs.job",
            ),
        ),
        migrations.AddField(
            model_name="token",
            name="parent",
            field=models.ForeignKey(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to=settings.KNOX_TOKEN_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="token",
            name="session",
            field=models.ForeignKey(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="sessions.session",
            ),
        ),
        migrations.AlterField(
            model_name="token", name="last_used_at", field=models.DateTimeField(editable=False, null=True)
        ),
        migrations.AlterField(
            model_name="token",
            name="scopes",
            field=models.JSONField(blank=True, default=list, help_text="empty: all but watch"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("owner"),
                models.F("status"),
                condition=models.Q(("status__in", ["PENDING", "RUNNING"])),
                name="job_unfinished",
            ),
        ),
        migrations.AddIndex(
            model_name="token",
            index=models.Index(models.F("expiry"), condition=models.Q(("expiry__isnull", False)), name="token_expiry"),
        ),
    ]
