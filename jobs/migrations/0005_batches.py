import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("jobs", "0004_credentials"),
    ]

    operations = [
        migrations.AddField(
            model_name="batch",
            name="team",
            field=models.ForeignKey(
                blank=True,
                help_text="whose members may see it: that of its jobs, where all have the same",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to="auth.group",
            ),
        ),
        migrations.AlterField(
            model_name="idempotencykey",
            name="job",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="jobs.job"
            ),
        ),
        migrations.AddField(
            model_name="idempotencykey",
            name="batch",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="jobs.batch"
            ),
        ),
        migrations.AddField(
            model_name="idempotencykey",
            name="standing",
            field=models.JSONField(
                default=dict,
                help_text="jobs that held their unique keys already and were given in place of new ones, by place",
            ),
        ),
    ]
