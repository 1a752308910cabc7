"""A page of metrics, taken apart.

Comes in: the text of `/metrics`. Goes out: samples. Invariant: a page is read as a whole or not at all, so a
page of something else tells nothing. Not here: what is counted (`metrics`), what follows from it.
"""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class NoMetrics(ValueError):
    """The text is no page of metrics."""


def parse_page(text: str) -> tuple[tuple[str, Mapping[str, str], float], ...]:
    """Take a page apart.

    Args:
        text: in Prometheus' text format.

    Returns:
        Name, labels and value of each sample.

    Raises:
        NoMetrics: a line of it is none.
    """
    try:
        return tuple(
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        )
    except (ValueError, KeyError) as error:
        raise NoMetrics(f"no page of metrics: {error}") from error
