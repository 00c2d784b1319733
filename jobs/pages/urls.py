"""Paths of the pages."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from jobs.pages import job_views, list_views, start_views
from jobs.pages.preferences import preferences
from jobs.pages.signing_in import limited

urlpatterns = [
    path("", list_views.jobs, name="jobs"),
    path("rows", list_views.job_rows, name="job-rows"),
    path("start", start_views.start, name="start"),
    path("start/curl", start_views.start_curl, name="start-curl"),
    path("jobs/<uuid:job_id>", job_views.job, name="job"),
    path("jobs/<uuid:job_id>/cancel", job_views.cancel, name="cancel"),
    path("jobs/<uuid:job_id>/retry", job_views.retry, name="retry"),
    path("jobs/<uuid:job_id>/delete", job_views.delete, name="delete"),
    path("preferences", preferences, name="preferences"),
    path(
        "sign-in",
        limited(LoginView.as_view(template_name="signin.html", redirect_authenticated_user=True)),
        name="signin",
    ),
    path("sign-out", LogoutView.as_view(), name="signout"),
]
