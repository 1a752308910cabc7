"""The table of metrics in docs/observability.md, made from the one table of metric names.

Comes in: `services.runtime.metrics.TABLE` and the page. Goes out: the page with a fresh table.
Invariant: what stands outside the two marks is left as it is. Not here: files (`services.cli.pages`).
"""

from services.runtime.metrics import TABLE

BEGIN = "<!-- metrics: made by `.venv/bin/python -m services.cli.pages` -->"
END = "<!-- end of metrics -->"


def table() -> str:
    """Write the table."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{row.name}` | {row.kind} | {', '.join(f'`{label}`' for label in row.labels)} | {row.text} |"
        for row in TABLE
    ]
    return "\n".join(lines) + "\n"


def refresh(page: str) -> str:
    """Put the table between the marks of a page.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"
