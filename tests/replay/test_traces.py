"""Traces are read as they are meant, or refused with file and line."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.errors import ConfigurationInvalid
from services.replay.retiming import first, speed_up, spread
from services.replay.trace_files import read_trace, write_trace
from services.replay.traces import Trace, kv_blocks
from services.replay.workloads import WORKLOADS, make_workload
from tests.replay.scenery import trace_of, traces


def written(folder: Path, text: str, name: str = "trace") -> Path:
    """Write a file."""
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def line(timestamp: float, prompt: int, output: int, ids: list[int] | None = None) -> str:
    """A line of Mooncake's format."""
    row = {"timestamp": timestamp, "input_length": prompt, "output_length": output}
    return json.dumps(row if ids is None else row | {"hash_ids": ids}) + "\n"


def test_json_lines_become_requests_that_share_prefixes(tmp_path: Path) -> None:
    """Equal ids at the same place are equal prefixes; a request without ids is like no other."""
    text = line(500, 1100, 3, [7, 8, 9]) + "\n" + line(250, 1000, 0, [7, 8]) + line(900, 600, 2)
    trace = read_trace(written(tmp_path, text))
    assert [request.arrival_s for request in trace.requests] == [0.0, 0.25, 0.65]
    assert [request.output_tokens for request in trace.requests] == [1, 3, 2]
    early, late, alone = (request.prefix_ids for request in trace.requests)
    assert early == late[:2]
    assert not set(alone) & set(late)


def test_an_id_behind_another_prefix_is_another_prefix(tmp_path: Path) -> None:
    """KV depends on everything before it, whatever a file says."""
    trace = read_trace(written(tmp_path, line(0, 1024, 1, [1, 5]) + line(1, 1024, 1, [2, 5])))
    assert not set(trace.requests[0].prefix_ids) & set(trace.requests[1].prefix_ids)


AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.2299600,3180,8
"""


@pytest.mark.parametrize(
    "text",
    [
        AZURE,
        "arrival_s,input,output\n100,4808,10\n\n100.25,3180,8\n",
    ],
)
def test_csv_with_lengths_is_read(tmp_path: Path, text: str) -> None:
    """Moments as dates or as seconds; the trace begins at 0."""
    trace = read_trace(written(tmp_path, text))
    assert [request.arrival_s for request in trace.requests] == [0.0, pytest.approx(0.25, abs=1e-6)]
    assert [request.prompt_tokens for request in trace.requests] == [4808, 3180]
    assert [request.output_tokens for request in trace.requests] == [10, 8]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (line(0, 5, 5) + "{broken\n", "line 2"),
        (line(0, 5, 5) + line(0, 0, 5), "line 2"),
        (line(0, 5, 5) + line(0, 5, -1), "line 2"),
        ('{"timestamp": 1, "input_length": 5}\n', "line 1"),
        ("a,b,c\n1,2,3\n", "line 1"),
        ("arrival_s,input,output\n1,2,3\n1,x,3\n", "line 3"),
        ("arrival_s,input,output\n1,2\n", "line 2"),
        ("arrival_s,input,output\nsoon,2,3\n", "line 2"),
        ("arrival_s,input,output\nnan,2,3\n", "line 2"),
        ("", "no request"),
        ("arrival_s,input,output\n", "no request"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    """Nothing is skipped silently."""
    with pytest.raises(ConfigurationInvalid) as caught:
        read_trace(written(tmp_path, text, "broken.trace"))
    assert "broken.trace" in caught.value.message
    assert place in caught.value.message


@settings(max_examples=60, deadline=None)
@given(trace=traces(), size=st.sampled_from([1, 3, 4, 8, 16, 48]))
def test_kv_blocks_are_equal_exactly_where_prefixes_are(trace: Trace, size: int) -> None:
    """Whatever the two block sizes: leading blocks of two prompts agree as far as their tokens do."""
    width = trace.trace_block_tokens
    prompts = [
        (
            kv_blocks(request, trace_block_tokens=width, block_size_tokens=size),
            [request.prefix_ids[place // width] for place in range(request.prompt_tokens)],
        )
        for request in trace.requests
    ]
    for blocks, tokens in prompts:
        assert len(blocks) == len(tokens) // size
        assert len(set(blocks)) == len(blocks)
        for other_blocks, other_tokens in prompts:
            for place in range(min(len(blocks), len(other_blocks))):
                stop = (place + 1) * size
                same = tokens[:stop] == other_tokens[:stop]
                assert (blocks[place] == other_blocks[place]) == same


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_made_workloads_repeat_and_survive_a_file(tmp_path: Path, name: str) -> None:
    """The same seed is the same trace, another is not, and what is written is read again."""
    trace = make_workload(name, seed=3, count=50)
    assert len(trace.requests) == 50
    assert trace == make_workload(name, seed=3, count=50)
    assert trace != make_workload(name, seed=4, count=50)
    write_trace(tmp_path / "made", trace)
    again = read_trace(tmp_path / "made")
    for one, other in zip(trace.requests, again.requests, strict=True):
        assert (one.prompt_tokens, one.output_tokens) == (other.prompt_tokens, other.output_tokens)
        assert one.arrival_s == pytest.approx(other.arrival_s)


def test_only_the_shared_workload_shares() -> None:
    """Reuse is what it says."""
    shares = {}
    for name in WORKLOADS:
        ids = [
            one for request in make_workload(name, seed=0, count=200).requests for one in request.prefix_ids
        ]
        shares[name] = 1 - len(set(ids)) / len(ids)
    assert shares["shared-prefix"] > 0.7
    assert shares["sessions"] > 0.4
    assert shares["tools"] > 0.2
    alone = set(shares) - {"shared-prefix", "sessions", "tools"}
    assert {shares[name] for name in alone} == {0.0}


def test_traces_are_spread_sped_up_and_shortened() -> None:
    """Arrivals of a tick are spread evenly over it, in their order; lengths stay."""
    trace = trace_of((0.0, 1, 1, ()), (0.0, 2, 1, ()), (0.0, 3, 1, ()), (3.0, 4, 1, ()), (9.0, 5, 1, ()))
    apart = spread(trace, 3.0)
    assert [request.arrival_s for request in apart.requests] == pytest.approx([0.0, 1.0, 2.0, 3.0, 9.0])
    assert [request.arrival_s for request in speed_up(apart, 2.0).requests] == pytest.approx(
        [0.0, 0.5, 1.0, 1.5, 4.5]
    )
    assert [request.prompt_tokens for request in first(apart, 2).requests] == [1, 2]
