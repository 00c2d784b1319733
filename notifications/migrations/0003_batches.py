import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0005_batches"),
        ("notifications", "0002_needless_index"),
    ]

    operations = [
        migrations.AlterField(
            model_name="delivery",
            name="job",
            field=models.ForeignKey(
                help_text="null where the event is a batch's",
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="deliveries",
                to="jobs.job",
            ),
        ),
    ]
