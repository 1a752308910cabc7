"""Writes what is made from the code: pages of `docs/`, files of the chart; `python -m services.cli.pages`."""

from pathlib import Path

from services.cli import metrics_page, settings_page
from services.cli.chart import files

SETTINGS = Path("docs/settings.md")
OBSERVABILITY = Path("docs/observability.md")
CHART_VALUES = Path("helm/baton/values.yaml")
CHART_SCHEMA = Path("helm/baton/values.schema.json")


def write(root: Path) -> None:
    """Write all of them.

    Args:
        root: of the repository.
    """
    (root / SETTINGS).write_text(settings_page.render(), encoding="utf-8")
    page = root / OBSERVABILITY
    page.write_text(metrics_page.refresh(page.read_text(encoding="utf-8")), encoding="utf-8")
    (root / CHART_VALUES).write_text(files.render_values(), encoding="utf-8")
    (root / CHART_SCHEMA).write_text(files.render_schema(), encoding="utf-8")


if __name__ == "__main__":
    write(Path())
