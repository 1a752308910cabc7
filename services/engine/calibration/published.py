"""Reads measurements that others published: NumPy archives of sweeps, and tables as CSV.

Comes in: files. Goes out: points by group, and what was left out. Invariant: a file that is not understood
is refused by name; nothing is guessed.
Formats: the archives of NVIDIA Dynamo's pre-deployment sweep (`prefill_isl`, `prefill_ttft` in ms;
`x_kv_usage`, `y_context_length`, `z_itl` in ms, `max_kv_tokens`), and CSV with the columns `kind` (prefill
or decode), `batch`, `isl` (cached tokens included), `prefix`, `ctx` (of each sequence), `ms`, and any of
`name`, `system`, `tp` that tell groups apart.
"""

import csv
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.domain.errors import ConfigurationInvalid
from services.engine.calibration.points import DecodePoint, Point, PrefillPoint

SEQUENCES_MAX = 1024
"""vLLM's default on large GPUs, at which the published sweeps were made: what is beyond it waits, so the
step is shorter than so many sequences would make it."""
_GROUP_COLUMNS = ("name", "system", "tp")
_COLUMNS = ("kind", "batch", "isl", "prefix", "ctx", "ms")

Floats = npt.NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Published:
    """Measurements of one engine."""

    points: list[Point] = field(default_factory=list)
    left_out_count: int = 0
    """Points with more sequences than the engine ran at once."""
    kv_tokens: float = 0.0
    """KV capacity; where the file tells none, the largest context that was measured."""


def read_published(files: Iterable[Path], *, sequences_max: int = SEQUENCES_MAX) -> dict[str, Published]:
    """Read files; archives together are one group.

    Args:
        files: `.npz` or `.csv`.
        sequences_max: points with more sequences are left out.

    Returns:
        Measurements by the name of their group.

    Raises:
        ConfigurationInvalid: a file cannot be read, or is of no known format.
    """
    found: dict[str, Published] = {}
    for file in files:
        try:
            match file.suffix.lower():
                case ".npz":
                    _archive(file, found.setdefault("archives", Published()), sequences_max)
                case ".csv":
                    _table(file, found, sequences_max)
                case _:
                    raise _unknown(file, "neither .npz nor .csv")
        except OSError as failure:
            raise _unknown(file, failure.strerror or str(failure)) from None
        except (zipfile.BadZipFile, ValueError, KeyError) as failure:
            raise _unknown(file, str(failure)) from None
    for name, group in found.items() or [("data", Published())]:
        if not group.points:
            raise ConfigurationInvalid(key="data", message=f"{name}: no points in it")
    return found


def _archive(file: Path, group: Published, sequences_max: int) -> None:
    with np.load(file, allow_pickle=False) as archive:
        names = set(archive.files)
        if names >= {"prefill_isl", "prefill_ttft"}:
            for tokens, took_ms in zip(archive["prefill_isl"], archive["prefill_ttft"], strict=True):
                _prefill(group, count=1, tokens=int(tokens), cached=0, took_ms=float(took_ms))
        elif names >= {"x_kv_usage", "y_context_length", "z_itl", "max_kv_tokens"}:
            kv_tokens = float(np.ravel(archive["max_kv_tokens"])[0])
            group.kv_tokens = kv_tokens
            columns = (archive["x_kv_usage"], archive["y_context_length"], archive["z_itl"])
            for used_frac, context, took_ms in zip(*columns, strict=True):
                _decode(
                    group,
                    count=round(float(used_frac) * kv_tokens / float(context)),
                    tokens_each=float(context),
                    took_ms=float(took_ms),
                    sequences_max=sequences_max,
                )
        else:
            raise _unknown(file, f"holds {', '.join(sorted(names))}; neither a prefill nor a decode sweep")


def _table(file: Path, found: dict[str, Published], sequences_max: int) -> None:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise _unknown(file, f"has no column {', '.join(missing)}")
        for row in rows:
            if any(row[column] is None for column in _COLUMNS):
                raise _unknown(file, f"line {rows.line_num} is too short")
            name = " ".join(row[c] for c in _GROUP_COLUMNS if row.get(c)) or file.stem
            _row(row, found.setdefault(name, Published()), sequences_max)


def _row(row: Mapping[str, str], group: Published, sequences_max: int) -> None:
    took_ms, count = float(row["ms"]), int(row["batch"])
    if row["kind"] == "prefill":
        cached = int(row["prefix"] or 0)
        _prefill(group, count=count, tokens=int(row["isl"]) - cached, cached=cached, took_ms=took_ms)
    elif row["kind"] == "decode":
        _decode(
            group, count=count, tokens_each=float(row["ctx"]), took_ms=took_ms, sequences_max=sequences_max
        )
    else:
        raise ValueError(f"kind {row['kind']!r} is neither prefill nor decode")


def _prefill(group: Published, *, count: int, tokens: int, cached: int, took_ms: float) -> None:
    if count < 1 or tokens < 1 or cached < 0:
        raise ValueError(f"a prefill of {count} prompts, {tokens} new and {cached} cached tokens")
    group.points.append(
        PrefillPoint(prompt_count=count, new_tokens=tokens, cached_tokens=cached, took_s=_seconds(took_ms))
    )


def _decode(group: Published, *, count: int, tokens_each: float, took_ms: float, sequences_max: int) -> None:
    if count < 1:
        raise ValueError("a decode step without sequences")
    if count > sequences_max:
        group.left_out_count += 1
        return
    point = DecodePoint(sequence_count=count, context_tokens=count * tokens_each, took_s=_seconds(took_ms))
    group.points.append(point)
    group.kv_tokens = max(group.kv_tokens, point.context_tokens)


def _seconds(took_ms: float) -> float:
    if not took_ms > 0:
        raise ValueError(f"a time of {took_ms} ms")
    return took_ms / 1e3


def _unknown(file: Path, why: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(key="data", message=f"{file}: {why}")
