"""Logs: one line per event, as text for people or as JSON for collectors.

Comes in: the standard library's log records. Goes out: lines on standard error.
Not here: metrics (`services.runtime.metrics`), request timelines (`services.gateway`).
"""

import logging
import sys
from enum import StrEnum

import msgspec


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class _JsonLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(row).decode()


def start_logging(process: str, *, style: LogFormat = LogFormat.TEXT, level: str = "INFO") -> None:
    """Send all log records of this process to standard error.

    Args:
        process: name shown in each line.
        style: text or JSON.
        level: least severe level shown.
    """
    handler = logging.StreamHandler(sys.stderr)
    match style:
        case LogFormat.JSON:
            handler.setFormatter(_JsonLines(process))
        case LogFormat.TEXT:
            handler.setFormatter(
                logging.Formatter(f"%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s")
            )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
