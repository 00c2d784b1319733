"""Paths of the polling door."""

from django.urls import path

from jobs.api import artifacts, batch_views, event_views, job_views, kind_views, tokens

urlpatterns = [
    path("jobs", job_views.Jobs.as_view(), name="jobs"),
    path("jobs/status/<uuid:job_id>", job_views.JobStatus.as_view(), name="job-status"),
    path("jobs/<uuid:job_id>", job_views.OneJob.as_view(), name="job"),
    path("jobs/<uuid:job_id>/cancel", job_views.CancelJob.as_view(), name="job-cancel"),
    path("jobs/<uuid:job_id>/retry", job_views.RetryJob.as_view(), name="job-retry"),
    path("jobs/<uuid:job_id>/rerun", job_views.RerunJob.as_view(), name="job-rerun"),
    path("jobs/<uuid:job_id>/events", event_views.JobEvents.as_view(), name="job-events"),
    path("jobs/batch", batch_views.Batches.as_view(), name="batches"),
    path("batches/<uuid:batch_id>", batch_views.OneBatch.as_view(), name="batch"),
    path("events", event_views.AllEvents.as_view(), name="events"),
    path("watch-tokens", tokens.WatchTokens.as_view(), name="watch-tokens"),
    path("tokens", tokens.Tokens.as_view(), name="tokens"),
    path("tokens/<uuid:token_id>", tokens.OneToken.as_view(), name="token"),
    path("kinds", kind_views.Kinds.as_view(), name="kinds"),
    path("artifacts/<uuid:artifact_id>/<str:name>", artifacts.artifact, name="artifact"),
]
