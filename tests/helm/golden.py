"""Writes the golden files again: `python -m tests.helm.golden`, in the root; read the difference."""

from pathlib import Path

from tests.helm.chart import write_golden

GOLDEN = Path(__file__).parent / "golden"

if __name__ == "__main__":
    write_golden(GOLDEN)
