"""The ASGI application: Django behind held answers and event streams, and the sockets beside it."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("KABAR_PROCESS", "web")  # before settings load: it decides how connections are kept

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

from jobs.api.waiting import HeldAnswers
from notifications.push.consumers import JobsConsumer
from notifications.push.sse import EventStreams

application = ProtocolTypeRouter(
    {
        "http": EventStreams(HeldAnswers(django)),
        "websocket": AuthMiddlewareStack(URLRouter([path("ws/jobs", JobsConsumer.as_asgi())])),
    }
)
