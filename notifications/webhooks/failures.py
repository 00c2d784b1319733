"""What keeps a webhook from being sent: errors with a stable code and a sentence for the user.

The sentences never name the address that a host resolved to: whoever may register a webhook could otherwise
read the operator's internal DNS with it.
"""

from __future__ import annotations

from typing import ClassVar


class WebhookFailure(Exception):
    """The family; `code` is for programs, the text for people."""

    code: ClassVar[str]

    @property
    def message(self) -> str:
        return str(self)


class InvalidUrl(WebhookFailure):
    """The URL is none that a webhook can have."""

    code = "invalid_url"


class AddressRefused(WebhookFailure):
    """The URL leads to an address that is neither public nor on the allow list."""

    code = "address_refused"


class LookupFailed(WebhookFailure):
    """The host's name has no address, or no name server answered."""

    code = "dns_failed"


class LookupTimedOut(LookupFailed):
    """No name server answered in time."""

    code = "dns_timeout"


class ConnectFailed(WebhookFailure):
    """No address of the host could be reached."""

    code = "connect_failed"


class ConnectRefused(ConnectFailed):
    """The host is there, but nothing listens on the port."""

    code = "connect_refused"


class ConnectTimedOut(ConnectFailed):
    """No address of the host took the connection in time."""

    code = "connect_timeout"


class AnswerTooLarge(WebhookFailure):
    """What came before the answer's body is more than any honest server sends."""

    code = "answer_too_large"
