"""A bare Channels consumer in a group, on the same server and layer as Kabar's: no database, no authentication."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

from config import web

GROUP = "watchers"


class BareConsumer(AsyncWebsocketConsumer):
    """Passes on what is sent to the group."""

    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def news(self, message: dict[str, Any]) -> None:
        """Send a group's message to the client."""
        await self.send(text_data=message["text"])


if __name__ == "__main__":
    web.serve(
        ProtocolTypeRouter(
            {
                "http": get_asgi_application(),
                "websocket": URLRouter([path("ws/bare", BareConsumer.as_asgi())]),
            }
        )
    )
