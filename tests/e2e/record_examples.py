"""`python -m tests.e2e.record_examples`: makes each call on a stack of its own, and writes down what came.

Writes config/openapi/examples.json, and from it the last part of docs/api.md. Run it when the API has changed; the test
`test_examples.py` says when that is.
"""

from __future__ import annotations

import json
import re
import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.e2e.calls import NOBODY, made
from tests.e2e.stack import ROOT, running_stack

EXAMPLES = ROOT / "config/openapi/examples.json"
PAGE = ROOT / "docs/api.md"
SHOWN_URL, SHOWN_HOOK = "http://127.0.0.1:8000", "https://shop.example.org/kabar"
BEGINNING = "<!-- From here on: written by `python -m tests.e2e.record_examples`. -->"
SHOWN_HEADERS = ("Location", "Retry-After", "ETag", "Preference-Applied")
LONGEST_TEXT = 80
_SECRET = re.compile(r'((?:"token"|"secret"): "(?:whsec_)?)[^"]+')
_SIGNATURE = re.compile(r"signature=[\w-]+")


def main() -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        with running_stack(data, f"sqlite:///{data}/kabar.sqlite3") as stack:
            examples = {}
            for call, path, body, response in made(stack.client()):
                assert response.status_code == call.status, (call.name, response.status_code, response.text)
                request = {"method": call.method, "path": path, "headers": call.headers}
                answer: dict[str, Any] = {
                    "status": response.status_code,
                    "headers": {name: response.headers[name] for name in SHOWN_HEADERS if name in response.headers},
                }
                if body is not None:
                    request["body"] = body
                if response.content:
                    answer["body"] = response.json()
                examples[call.name] = {"operation": call.operation, "request": request, "response": answer}
            text = (
                json.dumps(examples, indent=1, ensure_ascii=False)
                .replace(stack.url, SHOWN_URL)
                .replace(NOBODY, SHOWN_HOOK)
            )
    text = _SIGNATURE.sub("signature=Ka7-xk3", _SECRET.sub(r"\1…", text))
    EXAMPLES.write_text(text + "\n")
    page = PAGE.read_text().partition(BEGINNING)[0].rstrip()
    PAGE.write_text(f"{page}\n\n{BEGINNING}\n\n{as_page(json.loads(text))}")


def as_page(examples: dict[str, Any]) -> str:
    """Write the examples as a chapter of a page: each call as curl has it, and its answer."""
    parts = ["## Each call with its answer\n"]
    parts += [_as_section(name, each) for name, each in examples.items()]
    return "\n".join(parts)


def _as_section(name: str, example: dict[str, Any]) -> str:
    request, response = example["request"], example["response"]
    call = "$ curl" + (f" -X {request['method']}" if request["method"] not in ("GET",) else "")
    call += f' "$KABAR{request["path"]}" -H "Authorization: Bearer $TOKEN"'
    call += "".join(f" -H '{header}: {value}'" for header, value in request["headers"].items())
    if "body" in request:
        body = json.dumps(request["body"], ensure_ascii=False)
        if name.endswith("with a file"):
            call += f" \\\n    -F 'job={body};type=application/json' -F 'file=@cities.csv;type=text/csv'"
        else:
            call += f" -H 'Content-Type: application/json' \\\n    -d '{body}'"
    phrase = HTTPStatus(response["status"]).phrase
    lines = [
        f"HTTP/1.1 {response['status']} {phrase}",
        *(f"{header}: {value}" for header, value in response["headers"].items()),
    ]
    if "body" in response:
        lines += ["", json.dumps(_shortened(response["body"], is_whole=name == "getJob"), ensure_ascii=False)]
    answer = "\n".join(lines)
    return f"### {name}\n\n```console\n{call}\n{answer}\n```\n"


def _shortened(value: Any, *, is_whole: bool = False) -> Any:
    """Leave out of a Job what its own example shows, and shorten long texts."""
    match value:
        case {"jobId": job_id, "kind": kind, "status": status, "version": _} if not is_whole:
            return {"jobId": job_id, "kind": kind, "status": status, "…": "…"}
        case dict():
            return {name: _shortened(each) for name, each in value.items()}
        case list():
            return [_shortened(each) for each in value[:2]]
        case str() if len(value) > LONGEST_TEXT:
            return value[:LONGEST_TEXT] + "…"
    return value


if __name__ == "__main__":
    main()
