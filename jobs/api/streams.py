"""What an event stream may tell: the ordinary views grant it, and the door that streams reads the grant.

The door asks the view with a mark in the ASGI scope, which no client can set; the view answers with a grant in a
header, which the door never sends out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from rest_framework.response import Response

from jobs.visibility import Viewer

DOOR = "kabar.door"
"""The scope's key that says who asks."""
GRANT = "X-Kabar-Grant"


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What somebody may be told, and from where on."""

    viewer: Viewer
    job_id: UUID | None = None
    """The one job; None for all that the viewer sees."""
    after: int = 0
    """The last sequence that the reader of one job has."""
    cursor: str = ""
    """Where the reader of all jobs stands."""
    scope_all: bool = False
    is_over: bool = False
    """Whether the job's log is at its end, and the reader has it all."""

    def as_text(self) -> str:
        """Write it for the header."""
        fields = asdict(self)
        fields["viewer"]["team_ids"] = sorted(self.viewer.team_ids)
        return json.dumps(fields, default=str)

    @classmethod
    def of_text(cls, text: str) -> Grant:
        """Read it from the header."""
        fields: dict[str, Any] = json.loads(text)
        viewer = fields.pop("viewer")
        job_id, bound_to = fields.pop("job_id"), viewer.pop("job_id")
        return cls(
            viewer=Viewer(**{**viewer, "team_ids": frozenset(viewer["team_ids"])}, job_id=bound_to and UUID(bound_to)),
            job_id=job_id and UUID(job_id),
            **fields,
        )


def is_asked_for(request: HttpRequest) -> bool:
    """Tell whether the door for streams asks, and not the client itself."""
    return getattr(request, "scope", {}).get(DOOR) == "stream"


def granted(grant: Grant) -> Response:
    """Answer the door."""
    return Response(headers={GRANT: grant.as_text()})
