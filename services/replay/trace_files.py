"""Files that hold traces: Mooncake's JSON lines, and CSV with lengths.

Comes in: a path. Goes out: a trace. Formats are told apart by their content. Invariant: a row that cannot
be meant stops the reading with an error that names file and line. Not here: what a trace is (`traces`).

JSON lines (Mooncake, FAST'25): `timestamp` in ms, `input_length`, `output_length`, and `hash_ids`, one per
512 tokens, optional. CSV: a header with an arrival (a moment, or seconds), an input and an output length;
the Azure LLM inference traces are such. An output of 0 tokens counts as 1: some engine wrote its end.
"""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from services.domain.errors import ConfigurationInvalid
from services.replay.traces import TRACE_BLOCK_TOKENS, PrefixNames, Trace, TracedRequest, ordered

_ARRIVALS = ("timestamp", "arrival_s", "arrived_at", "arrival")
_INPUTS = ("contexttokens", "input", "input_tokens", "input_length", "num_prefill_tokens", "isl")
_OUTPUTS = ("generatedtokens", "output", "output_tokens", "output_length", "num_decode_tokens", "osl")


class _Row(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int | str] = []


def read_trace(path: Path) -> Trace:
    """Read a trace.

    Raises:
        ConfigurationInvalid: it cannot be read; names the file, and the line if one is at fault.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(str(path), str(error)) from error
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise _wrong(str(path), "it holds no request")
    requests = _json_lines(path, lines) if first.lstrip().startswith("{") else _csv(path, lines)
    if not requests:
        raise _wrong(str(path), "it holds no request")
    return ordered(path.name, requests)


def _json_lines(path: Path, lines: list[str]) -> list[TracedRequest]:
    names = PrefixNames()
    decoder = msgspec.json.Decoder(_Row)
    requests = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise _wrong(where, str(error)) from error
        requests.append(_request(names, where, row))
    return requests


def _csv(path: Path, lines: list[str]) -> list[TracedRequest]:
    prefixes = PrefixNames()
    rows = csv.reader(lines)
    header = [cell.strip().lower() for cell in next(rows, [])]
    arrival, prompt, output = (_column(path, header, names) for names in (_ARRIVALS, _INPUTS, _OUTPUTS))
    requests = []
    for row in rows:
        if not row:
            continue
        where = f"{path}, line {rows.line_num}"
        try:
            read = _Row(_moment_s(row[arrival]) * 1000, int(float(row[prompt])), int(float(row[output])))
        except (ValueError, IndexError, OverflowError) as error:
            raise _wrong(where, str(error)) from error
        requests.append(_request(prefixes, where, read))
    return requests


def _column(path: Path, header: list[str], wanted: tuple[str, ...]) -> int:
    for name in wanted:
        if name in header:
            return header.index(name)
    raise _wrong(f"{path}, line 1", f"no column is named one of {', '.join(wanted)}")


def _moment_s(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
    whole = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).replace(microsecond=0)
    digits = text.partition(".")[2]
    count = next((i for i, letter in enumerate(digits) if not letter.isdigit()), len(digits))
    return whole.timestamp() + (float(f"0.{digits[:count]}") if count else 0.0)


def _request(names: PrefixNames, where: str, row: _Row) -> TracedRequest:
    if row.input_length < 1:
        raise _wrong(where, f"a prompt of {row.input_length} tokens")
    if row.output_length < 0:
        raise _wrong(where, f"an output of {row.output_length} tokens")
    if not abs(row.timestamp) < float("inf"):
        raise _wrong(where, f"an arrival at {row.timestamp}")
    return TracedRequest(
        arrival_s=row.timestamp / 1000,
        prompt_tokens=row.input_length,
        output_tokens=max(1, row.output_length),
        prefix_ids=names.chain(row.hash_ids, -(-row.input_length // TRACE_BLOCK_TOKENS)),
    )


def _wrong(where: str, why: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(key="trace", message=f"{where}: {why}")


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace as Mooncake's JSON lines."""
    rows = [
        {
            "timestamp": request.arrival_s * 1000,
            "input_length": request.prompt_tokens,
            "output_length": request.output_tokens,
            "hash_ids": request.prefix_ids,
        }
        for request in trace.requests
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
