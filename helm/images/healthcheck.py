"""Docker's health check of any Baton container: whichever program runs here is asked whether it lives.

Exit status 0: one of them answers that it does. Kubernetes does not use this; the chart has probes.
"""

import sys
import urllib.error
import urllib.request

QUESTIONS = (
    "http://127.0.0.1:9090/health/live",  # worker, router, gateway with edge.metrics_port
    "http://127.0.0.1:8000/health/live",  # gateway without, and without TLS
    "http://127.0.0.1:8222/healthz?js-enabled-only=true",  # NATS
)
TIMEOUT_S = 3.0


def lives(question: str) -> bool:
    """Ask one program once."""
    try:
        with urllib.request.urlopen(question, timeout=TIMEOUT_S) as answer:  # noqa: S310  # http, above
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(0 if any(lives(question) for question in QUESTIONS) else 1)
