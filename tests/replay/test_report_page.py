"""The page of a comparison holds everything, needs nothing else, and survives odd names."""

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from services.replay.comparison import COLUMNS, name_of
from services.replay.figures import Series, courses, distributions
from services.replay.policies import POLICIES
from services.replay.report_page import render
from services.replay.run import ReplaySettings, Report, replay
from services.replay.workloads import make_workload


@cache
def reports() -> tuple[Report, ...]:
    """Replay a small workload under every policy, and under one on two pools."""
    trace = make_workload("shared-prefix", seed=0, count=60)
    settings = [ReplaySettings(policy=name, workers=4, speedup=4.0) for name in sorted(POLICIES)]
    settings.append(replace(settings[1], prefill_workers=1))
    return tuple(replay(trace, one)[0] for one in settings)


class _Tags(HTMLParser):
    """Checks that every element is closed in order, and collects text and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> _Tags:
    """Read a page, which must be well formed."""
    tags = _Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def test_the_page_needs_nothing_else() -> None:
    """No script, no image, no font, no address."""
    page = render(reports())
    tags = parsed(page)
    assert not tags.seen & {"script", "img", "link", "iframe"}
    assert tags.addresses == []
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page


def test_every_policy_has_its_row_and_its_place_in_every_figure() -> None:
    """By name; numbers as in the terminal's table."""
    page = render(reports())
    figures = re.findall(r"<svg [^>]*aria-label.*?</svg>", page, re.DOTALL)
    assert len(figures) == 7
    for report in reports():
        name = name_of(report)
        assert f"<tr><th>{name}</th>" in page
        assert all(column.cell(report) in page for column in COLUMNS)
        assert all(name in figure for figure in figures)
    for figure in figures:
        ElementTree.fromstring(figure)  # noqa: S314  # drawn by us


def test_all_settings_are_on_the_page() -> None:
    """Those that all share once, the others per policy."""
    text = " ".join(parsed(render(reports())).text)
    for key in ReplaySettings.__dataclass_fields__:
        assert key in text
    for key in ("engine.performance.prefill_token_s", "engine.kv_blocks", "mechanisms.streams_kv"):
        assert text.count(key) == 1


def test_one_policy_is_a_page_too() -> None:
    """Nothing is the best of one."""
    page = render(reports()[:1])
    parsed(page)
    assert 'class="best"' not in page


@given(name=st.text(max_size=30))
def test_names_cannot_break_the_page(name: str) -> None:
    """A trace is named by whoever made its file."""
    page = render([replace(report, trace=f"{name}<b>&\"'") for report in reports()[:2]])
    assert "<b>" not in page
    assert "b" not in parsed(page).seen


@given(
    st.lists(st.lists(st.floats(0, 1e7), min_size=2, max_size=20).map(sorted), min_size=1, max_size=12),
    st.one_of(st.none(), st.floats(1e-3, 1e6)),
)
def test_distributions_stay_within_their_figure(curves: list[list[float]], target: float | None) -> None:
    """Whatever the numbers; lines go up and to the right."""
    series = [Series(name=f"line {index}", values=values) for index, values in enumerate(curves)]
    drawn = ElementTree.fromstring(distributions("any", series, target=target))  # noqa: S314  # drawn by us
    lines = [part for part in drawn if "line" in part.get("class", "")]
    assert len(lines) == len(curves)
    for line in lines:
        points = [tuple(map(float, pair.split())) for pair in line.get("d", "")[1:].split("L")]
        assert points == sorted(points, key=lambda point: (point[0], -point[1]))
        assert all(0 <= x <= 880 and 0 <= y <= 330 for x, y in points)


def test_nothing_to_draw_draws_nothing() -> None:
    """Without values there are no lines and no division by nothing."""
    assert distributions("none", [Series(name="empty", values=())], target=25.0) == ""
    empty = courses("none", [Series(name="empty", values=())], ends_s=[0.0])
    assert "area" not in empty
