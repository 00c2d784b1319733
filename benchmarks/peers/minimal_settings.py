"""Kabar's settings with what `startproject` would have: its middleware, DRF's defaults, one path.

Under Django's own ASGI handler each request has a thread of its own, so only a pool's connections are used again.
"""

from config.settings import *  # noqa: F403 - the same database and apps
from config.settings import DATABASES

_database = DATABASES["default"]
_database |= {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False}
if _database["ENGINE"] == "django.db.backends.postgresql":
    _database["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 10, "timeout": 5}

ROOT_URLCONF = "benchmarks.peers.minimal_view"
REST_FRAMEWORK = {"DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"]}
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
