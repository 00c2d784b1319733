"""The translations: nothing is missing, and what Django reads is what stands in the catalog."""

from __future__ import annotations

import gettext
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from config import messages

CATALOGS = sorted(messages.ROOT.glob("locale/*/LC_MESSAGES/django.po"))
PLACE = re.compile(r"%\(\w+\)s|%%|\{\d\}|</?\w+")


@pytest.fixture(params=CATALOGS, ids=lambda path: path.parent.parent.name)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def catalog(path: Path) -> Catalog:
    return messages.read(path)


def forms(text: Any) -> list[str]:
    """Give the forms of a text: one, or its singular and plural."""
    return [text] if isinstance(text, str) else list(text)


def test_there_is_an_indonesian_catalog() -> None:
    assert [path.parent.parent.name for path in CATALOGS] == ["id"]


def test_the_texts_are_found_in_code_and_templates() -> None:
    found = {text.key for text in messages.texts()}
    assert {"My jobs", "Waiting", ("%(count)s try", "%(count)s tries"), "try %(number)s of %(most)s"} <= found


def test_every_text_is_translated_and_no_translation_is_left_over(catalog: Catalog) -> None:
    assert messages.untranslated(catalog) == []
    known = {tuple(each.id) if each.pluralizable else each.id for each in catalog if each.id}
    assert known == {text.key for text in messages.texts()}


def test_translations_keep_the_places_of_what_is_put_in(catalog: Catalog) -> None:
    for message in catalog:
        *_, source = forms(message.id)
        for string in forms(message.string) if message.id else []:
            assert sorted(PLACE.findall(string)) == sorted(PLACE.findall(source)), message.id


def test_the_compiled_catalog_is_that_of_the_source(path: Path, catalog: Catalog) -> None:
    written = BytesIO()
    write_mo(written, catalog)
    written.seek(0)
    with path.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    assert compiled._catalog == gettext.GNUTranslations(written)._catalog  # type: ignore[attr-defined]  # has no public name
