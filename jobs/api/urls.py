"""Paths of the polling door."""

from django.urls import path

from jobs.api import artifacts, views

urlpatterns = [
    path("jobs", views.Jobs.as_view(), name="jobs"),
    path("jobs/status/<uuid:job_id>", views.JobStatus.as_view(), name="job-status"),
    path("jobs/<uuid:job_id>", views.OneJob.as_view(), name="job"),
    path("jobs/<uuid:job_id>/cancel", views.CancelJob.as_view(), name="job-cancel"),
    path("jobs/<uuid:job_id>/retry", views.RetryJob.as_view(), name="job-retry"),
    path("jobs/<uuid:job_id>/events", views.JobEvents.as_view(), name="job-events"),
    path("events", views.AllEvents.as_view(), name="events"),
    path("kinds", views.Kinds.as_view(), name="kinds"),
    path("artifacts/<uuid:artifact_id>/<str:name>", artifacts.artifact, name="artifact"),
]
