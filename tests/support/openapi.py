"""Requests that schemathesis makes from an OpenAPI document."""

from typing import Any

from hypothesis import HealthCheck, given, settings


def ask_everything(schema: Any, examples: int, **options: Any) -> set[str]:
    """Send `examples` requests of each operation, always the same; none may end in a status of 5xx.

    `schema` is of schemathesis; `options` go to every call. Returns the methods and paths.
    """
    asked: set[str] = set()
    for found in schema.get_all_operations():
        operation: Any = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            asked.add(f"{case.method} {case.path}")
            answer = case.call(**options)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)

        ask()
    return asked
