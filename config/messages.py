"""`python -m config.messages`: brings the translations up to date with the code, and compiles them.

New texts are added to each `locale/*/LC_MESSAGES/django.po` without a translation, to be written by hand; those that
are gone are dropped. Then the `.mo` is written, which Django reads. Django's own `makemessages` needs GNU gettext,
which not every machine has; this needs Babel alone.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.utils.translation.template import templatize

ROOT = Path(__file__).resolve().parent.parent
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORS = "Kabar contributors"
CODE = ("config", "jobs", "notifications")
CALLS = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy"}
# What Django makes of a template's tags is not quite Python, but its calls are.
CALL = re.compile(r"\b(?:_|n?gettext)\((?:u?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"),?\s*)+")
LITERAL = re.compile(r"u?('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text to translate, and where it stands."""

    singular: str
    plural: str | None
    path: str

    @property
    def key(self) -> str | tuple[str, str]:
        """As Babel names it."""
        return (self.singular, self.plural) if self.plural else self.singular


def main() -> None:
    """Update and compile each catalog, and list what is still to be translated."""
    missing = 0
    for path in sorted(ROOT.glob("locale/*/LC_MESSAGES/django.po")):
        catalog = update(path)
        for message in untranslated(catalog):
            missing += 1
            print(f"{path.relative_to(ROOT)}: {message!r} has no translation")
    sys.exit(bool(missing))


def update(path: Path) -> Catalog:
    """Bring one catalog up to date with the code, write it and compile it."""
    catalog = read(path)
    found = Catalog(charset="utf-8")
    for text in texts():
        found.add(text.key, locations=[(text.path, 0)], flags=["python-format"] if "%(" in text.singular else [])
    catalog.update(found, no_fuzzy_matching=True, update_header_comment=False)
    catalog.obsolete.clear()
    # The same code makes the same file: what happened when is told by the history of the repository.
    catalog.creation_date = catalog.revision_date = EPOCH
    catalog.last_translator, catalog.language_team, catalog.msgid_bugs_address = AUTHORS, AUTHORS, ""
    with path.open("wb") as file:
        write_po(file, catalog, width=100, sort_by_file=True, include_lineno=False, omit_header=False)
    with path.with_suffix(".mo").open("wb") as file:
        write_mo(file, catalog)
    return catalog


def read(path: Path) -> Catalog:
    """Read a catalog of the folder `locale`."""
    with path.open("rb") as file:
        return read_po(file, locale=path.parent.parent.name)


def untranslated(catalog: Catalog) -> list[str]:
    """List the texts of a catalog that have no translation, or one that is doubtful."""
    return [
        str(message.id)
        for message in catalog
        if message.id and (message.fuzzy or not message.string or (message.pluralizable and not all(message.string)))
    ]


def texts() -> Iterator[Text]:
    """Find the texts of the code and the templates."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from _texts_of_code(path)
    for path in sorted((ROOT / "templates").rglob("*.html")):
        yield from _texts_of_template(path)


def _texts_of_code(path: Path) -> Iterator[Text]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            literals = [
                each.value for each in node.args[:2] if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            if literals:
                yield _text(path, literals)


def _texts_of_template(path: Path) -> Iterator[Text]:
    for call in CALL.finditer(templatize(path.read_text(), origin=str(path))):
        yield _text(path, [ast.literal_eval(each) for each in LITERAL.findall(call[0])])


def _text(path: Path, literals: list[str]) -> Text:
    plural = literals[1] if len(literals) > 1 else None
    return Text(singular=literals[0], plural=plural, path=str(path.relative_to(ROOT)))


if __name__ == "__main__":
    main()
