"""A minimal DRF view of a job's row: a `ModelSerializer`, no token, no check, no ETag."""

from __future__ import annotations

from django.urls import path
from rest_framework.generics import RetrieveAPIView
from rest_framework.serializers import ModelSerializer

from jobs.api.health import healthz
from jobs.models import Job


class JobSerializer(ModelSerializer[Job]):
    """All columns of the row."""

    class Meta:
        model = Job
        fields = "__all__"


class JobView(RetrieveAPIView[Job]):
    """Reads a job."""

    queryset = Job.objects.all()
    serializer_class = JobSerializer
    authentication_classes = []
    permission_classes = []


urlpatterns = [
    path("minimal/<uuid:pk>", JobView.as_view()),
    path("healthz", healthz),  # the supervisor asks there whether it serves
]
