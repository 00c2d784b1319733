from collections.abc import Callable, Iterator

import pytest

from tests.e2e.stack import Client, Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, new_database_url: Callable[[], str]) -> Iterator[Stack]:
    """Give a running Kabar that all outside tests of a session share."""
    with running_stack(tmp_path_factory.mktemp("stack"), new_database_url()) as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Client:
    """Give the administrator's HTTP client."""
    return stack.client()
