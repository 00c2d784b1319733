"""What the templates of the pages write with."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

from django import template
from django.conf import settings
from django.template import Context
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from jobs.pages.shown import STATE_WORDS
from jobs.pages.wording import say_duration

register = template.Library()

THEMES = ("auto", "light", "dark")
LONGEST_JSON = 50_000
JSON_TOKEN = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?')


@register.simple_tag
def icon(name: str, css: str = "i") -> SafeString:
    """Draw one of the symbols of `partials/symbols.html`; it says nothing to a screen reader."""
    return format_html('<svg class="{}" aria-hidden="true"><use href="#i-{}"/></svg>', css, name)


@register.simple_tag(takes_context=True)
def theme(context: Context) -> str:
    """Give the theme that the reader chose; the system's where they didn't."""
    request = context.get("request")
    chosen = request.COOKIES.get("theme") if request else None
    return chosen if chosen in THEMES else THEMES[0]


@register.simple_tag
def version() -> str:
    return str(settings.VERSION)


@register.filter
def as_pretty_json(value: Any) -> SafeString:
    """Write JSON for people: indented, names and texts marked, everything escaped, very long ones cut."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    cut = text[:LONGEST_JSON]
    parts: list[str] = []
    end = 0
    for token in JSON_TOKEN.finditer(cut):
        parts.append(escape(cut[end : token.start()]))
        css = "k" if token["colon"] else "v"
        parts.append(format_html('<span class="{}">{}</span>{}', css, token["text"], token["colon"] or ""))
        end = token.end()
    parts.append(escape(cut[end:]))
    if len(text) > len(cut):
        parts.append("\n…")
    return mark_safe("".join(parts))  # noqa: S308 - every part is escaped above


@register.filter
def duration(span: timedelta | None) -> str:
    return "" if span is None else say_duration(span.total_seconds())


@register.filter
def seconds(number: float) -> str:
    """Write a number of seconds as a duration."""
    return say_duration(number)


@register.simple_tag
def page_texts() -> dict[str, Any]:
    """Give the scripts their texts, in the reader's language; `{0}` stands for what they put in."""
    return {
        "live": _("Live"),
        "polling": _("Polling"),
        "offline": _("Not connected"),
        "reconnecting": _("Reconnecting"),
        "reconnectingIn": _("Reconnecting, next try in {0}"),
        "copied": _("Copied"),
        "newJob": _("1 job was started since you opened this page."),
        "newJobs": _("{0} jobs were started since you opened this page."),
        "showNewJob": _("Show 1 new job"),
        "showNewJobs": _("Show {0} new jobs"),
        "percent": _("{0} percent. {1}"),
        "left": _("about {0} left"),
        "runningFor": _("for {0}"),
        "ofTotal": _("{0} of {1}"),
        "cancelling": _("Being cancelled"),
        "progress": _("Progress {0}%"),
        "notKept": _("{0}, state, not kept"),
        "logLine": _("Log line"),
        "logWarning": _("Log line, warning"),
        "logError": _("Log line, error"),
        "notAsked": _("not asked"),
        "viaSocket": _("live"),
        "viaPoll": _("polled"),
        "viaPage": _("with the page"),
        "sent": _("{0} of {1} sent"),
        "sentPercent": _("{0}% sent"),
        "uploadFailed": _("The upload broke off. Nothing was started; try again."),
        "tooLarge": _("The file is larger than this server takes."),
        "units": {
            "ms": _("{0} ms"),
            "s": _("{0} s"),
            "min": _("{0} min"),
            "h": _("{0} h {1} min"),
            "d": _("{0} d {1} h"),
        },
        "states": {name: str(word) for name, word in STATE_WORDS.items()},
    }
