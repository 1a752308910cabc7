"""Traces as text: requests one by one, or means of windows; formats are told apart by their content.

Comes in: the text of a file. Goes out: requests or windows. Formats: Mooncake's JSON lines (`timestamp` in
ms, `input_length`, `output_length`, `hash_ids` per 512 tokens); CSV of requests as Azure's of 2023
(`TIMESTAMP,ContextTokens,GeneratedTokens`); CSV of windows with requests per minute (`t_s,rpm_...`, as read
off Azure's figure of 2024) or per second with mean lengths (`t_s,rps,mean_isl,mean_osl`, ServeGen).
Invariant: a row that cannot be meant stops the reading with an error that names its line.
Not here: what becomes of them (`trace_loads`), opening files (`command`).
"""

import csv
from collections import OrderedDict
from dataclasses import dataclass

import msgspec
import numpy as np

from planner.proof.load import Floats
from services.domain.errors import ConfigurationInvalid

TRACE_BLOCK_TOKENS = 512
"""Tokens per hash of Mooncake's format."""
POOLED_CACHE_TOKENS = 8 * 945_029
"""Cache of eight default workers together, for traces that tell their prefixes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRequests:
    """Single requests in the order of their arrival; every array has shape [requests]."""

    at_s: Floats
    """Since the first one."""
    prompt_tokens: Floats
    uncached_tokens: Floats
    output_tokens: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedWindows:
    """Means over windows; every array has shape [windows]."""

    at_s: Floats
    """Middle of each."""
    requests_per_s: Floats
    prompt_tokens: Floats | None
    """None: the trace does not tell lengths."""
    output_tokens: Floats | None


class _Row(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int | str] = []


def parse_trace(text: str) -> TracedRequests | TracedWindows:
    """Read a trace.

    Raises:
        ConfigurationInvalid: it cannot be read; names the line at fault.
    """
    lines = text.lstrip("\ufeff").splitlines()
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise _wrong("it holds no request")
    if first.lstrip().startswith("{"):
        return _json_lines(lines)
    names = [cell.strip().lower() for cell in first.split(",")]
    rows = [row for row in csv.reader(lines[1:]) if row]
    if not rows:
        raise _wrong("it holds no request")
    if {"timestamp", "contexttokens", "generatedtokens"} <= set(names):
        return _requests(names, rows)
    if "t_s" in names:
        return _windows(names, rows)
    raise _wrong("line 1: neither requests (TIMESTAMP, ContextTokens, ...) nor windows (t_s, ...)")


def _json_lines(lines: list[str]) -> TracedRequests:
    decoder = msgspec.json.Decoder(_Row)
    rows: list[_Row] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(decoder.decode(line))
            except msgspec.DecodeError as error:
                raise _wrong(f"line {number}: {error}") from error
    rows.sort(key=lambda row: row.timestamp)
    prompts = np.array([row.input_length for row in rows], dtype=np.float64)
    return _checked(
        at_s=np.array([row.timestamp for row in rows]) / 1000,
        prompts=prompts,
        uncached=_uncached(rows),
        outputs=np.array([row.output_length for row in rows], dtype=np.float64),
    )


def _uncached(rows: list[_Row]) -> Floats:
    """Say what is to be computed of each prompt when all workers share one cache, least recently used out."""
    room = POOLED_CACHE_TOKENS // TRACE_BLOCK_TOKENS
    held: OrderedDict[int | str, None] = OrderedDict()
    uncached = []
    for row in rows:
        hits = 0
        while hits < len(row.hash_ids) and row.hash_ids[hits] in held:
            hits += 1
        for block in reversed(row.hash_ids):
            held[block] = None
            held.move_to_end(block)
        while len(held) > room:
            held.popitem(last=False)
        uncached.append(max(1, row.input_length - hits * TRACE_BLOCK_TOKENS))
    return np.array(uncached, dtype=np.float64)


def _requests(names: list[str], rows: list[list[str]]) -> TracedRequests:
    columns = [names.index(name) for name in ("timestamp", "contexttokens", "generatedtokens")]
    moments, prompts, outputs = [], [], []
    for number, row in enumerate(rows, start=2):
        try:
            moments.append(_moment_s(row[columns[0]]))
            prompts.append(float(row[columns[1]]))
            outputs.append(float(row[columns[2]]))
        except (ValueError, IndexError) as error:
            raise _wrong(f"line {number}: {error}") from error
    order = np.argsort(np.array(moments), kind="stable")
    prompt_tokens = np.array(prompts)[order]
    return _checked(
        at_s=np.array(moments)[order],
        prompts=prompt_tokens,
        uncached=prompt_tokens,
        outputs=np.array(outputs)[order],
    )


def _moment_s(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        since = np.datetime64(text.strip().replace(" ", "T"), "ns") - np.datetime64("2000-01-01", "ns")
        return float(since / np.timedelta64(1, "ns")) / 1e9


def _windows(names: list[str], rows: list[list[str]]) -> TracedWindows:
    try:
        table = np.array([[float(cell) for cell in row] for row in rows])
    except ValueError as error:
        raise _wrong(str(error)) from error
    columns = dict(zip(names, table.T, strict=True))
    rpm = next((column for name, column in columns.items() if name.startswith("rpm")), None)
    rates = columns.get("rps") if rpm is None else rpm / 60
    if rates is None:
        raise _wrong("line 1: neither rps nor rpm")
    if (rates < 0).any() or (np.diff(columns["t_s"]) <= 0).any():
        raise _wrong("windows out of order, or fewer than no requests")
    return TracedWindows(
        at_s=columns["t_s"],
        requests_per_s=rates,
        prompt_tokens=columns.get("mean_isl"),
        output_tokens=columns.get("mean_osl"),
    )


def _checked(*, at_s: Floats, prompts: Floats, uncached: Floats, outputs: Floats) -> TracedRequests:
    if at_s.size == 0:
        raise _wrong("it holds no request")
    if not np.isfinite(at_s).all() or (prompts < 1).any() or (outputs < 0).any():
        raise _wrong("a request without a moment, a prompt or an output")
    return TracedRequests(
        at_s=at_s - at_s[0],
        prompt_tokens=prompts,
        uncached_tokens=uncached,
        output_tokens=np.maximum(outputs, 1.0),
    )


def _wrong(why: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(key="trace", message=f"trace: {why}")
