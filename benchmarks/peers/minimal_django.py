"""Serves the minimal view on the same server as Kabar's, with the same pool of database connections."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.peers.minimal_settings"

from config import web

if __name__ == "__main__":
    from channels.routing import ProtocolTypeRouter
    from django.core.asgi import get_asgi_application

    web.serve(ProtocolTypeRouter({"http": get_asgi_application()}))
