"""The OpenAPI document: what each operation says beyond its view's own annotations, and the page that shows it.

Views declare what is theirs alone: their parameters, their good answers, and a 403, 409 or 410 of their own. What
follows from that by rule (other problems, headers, tags, scopes, examples) is added here, in one place for both rooms.
"""
