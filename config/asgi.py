"""The ASGI application: Django behind held answers and event streams, and the sockets beside it."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("KABAR_PROCESS", "web")  # before settings load: it decides how connections are kept

import django

django.setup(set_prefix=False)

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path, re_path

from config.one_hop import OneHopHandler
from jobs.api.counted import CountedRequests
from jobs.api.quick_polls import QuickPolls
from jobs.api.waiting import HeldAnswers
from notifications.push.consumers import JobsConsumer, no_such_door
from notifications.push.sse import EventStreams

one_hop = OneHopHandler(settings.REQUEST_THREADS)
# What is answered in front of Django isn't counted.
has_quick_polls = settings.QUICK_POLLS and settings.READ_RATE is None
sockets = URLRouter(
    [
        path("ws/jobs", JobsConsumer.as_asgi()),
        re_path("", no_such_door),  # type: ignore[arg-type]  # Channels routes to applications by Django's paths
    ]
)
application = ProtocolTypeRouter(
    {
        "http": CountedRequests(EventStreams(HeldAnswers(QuickPolls(one_hop) if has_quick_polls else one_hop))),
        "websocket": AuthMiddlewareStack(sockets),
    }
)
