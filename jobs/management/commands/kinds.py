import json
from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from jobs.api.params_schema import kind_as_dict
from jobs.kinds import all_kinds
from jobs.management.terminal import to_json


class Command(BaseCommand):
    """Lists what can be run."""

    help = "List the kinds of jobs, with the params that each takes."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="as GET /api/kinds has it")

    def handle(self, *_args: Any, **options: Any) -> None:
        kinds = [kind_as_dict(each) for each in all_kinds()]
        if options["json"]:
            self.stdout.write(to_json(kinds))
            return
        for kind in kinds:
            schema = kind["paramsSchema"]
            self.stdout.write(f"{self.style.SUCCESS(kind['kind'])}  {kind['title']}")
            for name, field in schema["properties"].items():
                need = "required" if name in schema.get("required", []) else "optional"
                if "default" in field:
                    need = f"default {json.dumps(field['default'], ensure_ascii=False)}"
                self.stdout.write(f"  {name}: {say_type(field)}, {need}  {field.get('description', '')}".rstrip())


def say_type(schema: Mapping[str, Any]) -> str:
    """Say in a few words what a JSON Schema takes."""
    if "enum" in schema:
        return "one of " + " ".join(json.dumps(each, ensure_ascii=False) for each in schema["enum"])
    if schema.get("format") == "binary":
        return "file"
    named = schema.get("type", "any JSON")
    words = " or ".join(named) if isinstance(named, list) else str(named)
    if schema.get("items"):
        words += f" of {say_type(schema['items'])}"
    return schema["format"] if "format" in schema and words == "string" else words
