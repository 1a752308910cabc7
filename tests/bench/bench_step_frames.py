"""Times the codec on step frames: `python -m tests.bench.bench_step_frames`.

One frame is what an engine step of a busy worker sends to one gateway. The time of merely building its
deltas in the same run is the yardstick, because it does not depend on the codec.
"""

import timeit
from collections.abc import Callable

from services.domain.ids import RequestId
from services.domain.stream import Delta, StepFrame
from services.wire.codec import decode_to_gateway, encode_to_gateway

DELTA_COUNT = 256
REPEATS, RUNS = 9, 50


def frame() -> StepFrame:
    """A step of 256 sequences, one new token each."""
    deltas = (Delta(request_id=RequestId(f"req-{n:020x}"), token_ids=(17 * n,)) for n in range(DELTA_COUNT))
    return StepFrame(step=1, deltas=tuple(deltas))


def best_us(work: Callable[[], object]) -> float:
    """Best mean time of a few runs, microseconds."""
    return min(timeit.repeat(work, number=RUNS, repeat=REPEATS)) / RUNS * 1e6


def main() -> None:
    """Print the table."""
    sample = frame()
    data = encode_to_gateway(sample)
    yardstick_us = best_us(frame)
    print(f"{DELTA_COUNT} deltas, {len(data)} bytes; building them takes {yardstick_us:.0f} us")
    for name, work in (
        ("encode", lambda: encode_to_gateway(sample)),
        ("decode", lambda: decode_to_gateway(data)),
    ):
        took_us = best_us(work)
        each_us, ratio = took_us / DELTA_COUNT, took_us / yardstick_us
        print(f"{name}: {took_us:.0f} us, {each_us:.2f} us a delta, {ratio:.2f}x building")


if __name__ == "__main__":
    main()
