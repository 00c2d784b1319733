"""The ASGI application: Django behind held answers and event streams, and the sockets beside it."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("KABAR_PROCESS", "web")  # before settings load: it decides how connections are kept

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path, re_path

from jobs.api.waiting import HeldAnswers
from notifications.push.consumers import JobsConsumer, no_such_door
from notifications.push.sse import EventStreams

sockets = URLRouter(
    [
        path("ws/jobs", JobsConsumer.as_asgi()),
        re_path("", no_such_door),  # type: ignore[arg-type]  # Channels routes to applications by Django's paths
    ]
)
application = ProtocolTypeRouter(
    {
        "http": EventStreams(HeldAnswers(django)),
        "websocket": AuthMiddlewareStack(sockets),
    }
)
