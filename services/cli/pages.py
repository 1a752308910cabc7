"""Writes the pages of `docs/` that are made from the code: `python -m services.cli.pages`, in the root."""

from pathlib import Path

from services.cli import metrics_page, settings_page

SETTINGS = Path("docs/settings.md")
OBSERVABILITY = Path("docs/observability.md")


def write(root: Path) -> None:
    """Write all of them.

    Args:
        root: of the repository.
    """
    (root / SETTINGS).write_text(settings_page.render(), encoding="utf-8")
    page = root / OBSERVABILITY
    page.write_text(metrics_page.refresh(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(Path())
