"""What the planner's model says of fixed fleets, beside what the fluid cluster makes of them.

    python -m tests.bench.bench_planner_model

Constant rates, Poisson arrivals, a forecast without doubt; shares of requests late. Some seconds.
Not here: the bound that these are held to (`tests/planner/proof/test_sizing_beside_fluid.py`).
"""

from tests.planner.proof.even_loads import CHAT, QUICK
from tests.planner.proof.test_sizing_beside_fluid import said_and_seen

ROWS = (
    (16.5, 3_000.0, 300.0, CHAT, (1, 1)),
    (17.5, 3_000.0, 300.0, CHAT, (1, 1)),
    (25.4, 3_000.0, 300.0, CHAT, (1, 2)),
    (33.0, 3_000.0, 300.0, CHAT, (2, 2)),
    (35.5, 3_000.0, 300.0, CHAT, (2, 2)),
    (40.0, 3_000.0, 300.0, CHAT, (2, 3)),
    (43.5, 3_000.0, 300.0, CHAT, (2, 3)),
    (46.0, 3_000.0, 300.0, CHAT, (2, 3)),
    (25.0, 3_000.0, 300.0, QUICK, (3, 3)),
    (25.0, 3_000.0, 300.0, QUICK, (2, 3)),
    (60.0, 1_155.0, 211.0, QUICK, (2, 2)),
    (347.0, 713.0, 46.0, QUICK, (4, 2)),
    (347.0, 713.0, 46.0, QUICK, (5, 2)),
    (286.0, 639.0, 40.0, QUICK, (3, 3)),
)
"""Requests per second, tokens of prompt and output, targets, pools."""


def main() -> int:
    """Print the table."""
    print("| requests | targets | pools | judge | model |", "|---|---|---|---|---|", sep="\n")
    for rate, prompt, output, slo, (prefill, decode) in ROWS:
        said, seen = said_and_seen(rate, prompt, output, (prefill, decode), slo)
        requests = f"{rate:g}/s of {prompt:,.0f} + {output:.0f} tokens"
        targets = f"{slo.ttft_s:g} s, {slo.tpot_s * 1e3:g} ms"
        print(f"| {requests} | {targets} | {prefill} + {decode} | {seen:.3f} | {said:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
