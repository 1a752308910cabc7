"""When the first token goes to the client: just in time for the second to follow at pace.

Comes in: predictions. Goes out: seconds to hold. Source: an early first token without its second only
moves the gap from TTFT into the first ITL, so it is sent no earlier than one first gap
(`services.domain.first_gap`) before the second is expected.
"""

from math import inf

from services.domain.first_gap import first_gap_max_s
from services.domain.handoff import Ticket
from services.domain.performance import PerformanceModel


def first_token_hold_s(
    ticket: Ticket,
    decode: PerformanceModel,
    *,
    step_s: float,
    tpot_target_s: float,
    output_tokens: float | None,
) -> float:
    """Seconds to hold the first token of a handoff.

    Args:
        ticket: of the handoff; its bytes have to move before the second token.
        decode: performance of the chosen decode worker.
        step_s: its predicted step with this request in it.
        tpot_target_s: most time that may pass between first and second token.
        output_tokens: that the request is expected to write; None: nothing is known of it.
    """
    second_s = decode.transfer_s(ticket.kv_bytes) + step_s
    expected_tokens = inf if output_tokens is None else output_tokens
    gap_s = first_gap_max_s(output_tokens=expected_tokens, step_s=step_s, tpot_target_s=tpot_target_s)
    return max(0.0, second_s - gap_s)
