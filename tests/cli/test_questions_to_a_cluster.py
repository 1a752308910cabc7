"""`status`, `generate`, `chat` and `explain` against a running cluster."""

import json
from pathlib import Path

import pytest

from tests.cli.command import baton
from tests.live.cluster import RunningCluster

pytestmark = pytest.mark.timeout(600)


async def test_status_shows_workers(cluster: RunningCluster, tmp_path: Path) -> None:
    """One row per worker in words; all of it as JSON, to a file beside the words or alone."""
    file = tmp_path / "status.json"
    told = await baton("status", "--url", cluster.url, "--json", str(file))
    assert told.code == 0, told.err
    names = {"prefill-0", "prefill-1", "decode-0", "decode-1"}
    assert all(name in told.out for name in names)
    assert "connected" in told.out
    alone = await baton("status", "--json", "-", BATON_URL=cluster.url)
    for text in (file.read_text(encoding="utf-8"), alone.out):
        assert {worker["worker_id"] for worker in json.loads(text)["workers"]} == names


@pytest.mark.parametrize("path", ["local", "remote"])
async def test_generate_and_its_explanation(cluster: RunningCluster, path: str) -> None:
    """The text and its usage as JSON; the request id leads to the decision and the timeline."""
    asked = ("generate", "The baton", "--max-tokens", "9", "--prefill", path, "--url", cluster.url)
    answer = json.loads((await baton(*asked, "--json", "-")).out)
    assert answer["text"]
    assert answer["usage"]["completion_tokens"] == 9
    request_id = answer["request_id"]
    record = json.loads((await baton("explain", request_id, "--url", cluster.url, "--json", "-")).out)
    assert (record["request_id"], record["output_tokens"]) == (request_id, 9)
    assert (record["handoff"] is not None) == (path == "remote")
    told = await baton("explain", request_id, "--url", cluster.url)
    assert told.code == 0, told.err
    assert "decision:" in told.out
    assert ("handoff:" in told.out) == (path == "remote")
    moments = [moment for moment, _ in record["timeline"]["marks"]]
    assert moments[:2] == ["accepted", "placed"]
    assert moments[-2:] == ["last_token", "ended"]
    assert all(moment.replace("_", " ") in told.out for moment in moments)
    assert set(moments) >= {"handed_over", "first_token"}
    assert set(moments) >= {"queued", "claimed", "prefilled"} or path == "local"
    listed = await baton("explain", "--url", cluster.url)
    assert request_id[:8] in listed.out
    assert request_id in (await baton("explain", "--url", cluster.url, "--json", "-")).out


async def test_generate_reads_standard_input_and_repeats(cluster: RunningCluster) -> None:
    """The same greedy prompt, from the command line and from standard input, gives the same words."""
    options = ("--max-tokens", "9", "--url", cluster.url)
    said = await baton("generate", "The baton", *options)
    read = await baton("generate", "-", *options, stdin="The baton")
    assert said.code == read.code == 0
    assert said.out == read.out != "\n"
    assert "baton explain" in said.err


async def test_chat_answers_and_talks(cluster: RunningCluster) -> None:
    """One question gets one answer; without a terminal each line of input is a turn."""
    options = ("--max-tokens", "9", "--url", cluster.url)
    once = await baton("chat", "What is prefill?", *options)
    assert once.code == 0, once.err
    assert once.out.strip()
    talk = await baton("chat", *options, stdin="What is prefill?\n\nAnd decode?\n")
    assert talk.code == 0, talk.err
    assert talk.out.startswith(once.out)
    assert len(talk.out) > len(once.out)


async def test_wrong_questions_are_told_in_one_line(cluster: RunningCluster) -> None:
    """No gateway, no such request, no such model, a wrong value: exit code 1 and what to do, no traceback."""
    for arguments, word in (
        (["status", "--url", "http://127.0.0.1:9"], "baton up"),
        (["explain", "nobody", "--url", cluster.url], "nobody"),
        (["generate", "x", "--model", "nobody", "--url", cluster.url], "nobody"),
        (["generate", "x", "--max-tokens", "0", "--url", cluster.url], "max_tokens"),
        (["chat", "x", "--temperature", "-1", "--url", cluster.url], "temperature"),
    ):
        ended = await baton(*arguments)
        assert (ended.code, word in ended.err) == (1, True), ended.err
        assert "Traceback" not in ended.err
