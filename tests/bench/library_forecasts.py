"""Forecast series of looks with statsforecast: exponential smoothing by its states, ARIMA, Holt-Winters.

Run by `bench_forecasts --library-python`, in an environment that has `statsforecast`. Reads JSON: the season
in looks or none, and series of looks. Prints JSON: of each method the forecasts, [series][looks][ahead], none
where it had not seen enough or did not converge, and the seconds it took for one look.

Each method is fitted anew to the last hour every five minutes; between these its states follow each look.
"""

import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from statsforecast.models import (  # type: ignore[import-not-found, unused-ignore]  # not in our environment
    AutoARIMA,
    AutoETS,
    HoltWinters,
)

SEEN_LOOKS = 360
FIT_LOOKS = 30
FIRST_LOOKS = 18
"""No fit before three minutes were seen."""
SEASONS_SEEN = 3
"""Holt-Winters needs so many seasons."""
SEASON_LOOKS_MAX = 120
"""Longer seasons do not stand three times in what is remembered."""


def forecasts(
    make: Callable[[], Any], series: list[float], *, first: int, ahead: int
) -> list[list[float] | None]:
    """Forecast after each look what the next ones bring."""
    out: list[list[float] | None] = []
    model, fitted = None, 0
    for place in range(len(series)):
        seen = series[max(0, place + 1 - SEEN_LOOKS) : place + 1]
        out.append(None)
        if place < first or max(seen) == min(seen):
            continue
        array = np.array(seen)
        try:
            if model is None or place - fitted >= FIT_LOOKS:
                model, fitted = make().fit(array), place
                told = model.predict(h=ahead)["mean"]
            else:
                told = model.forward(array, h=ahead)["mean"]
        except (ValueError, ArithmeticError, RuntimeError):
            model = None
            continue
        if all(math.isfinite(value) for value in told):
            out[-1] = [max(0.0, float(value)) for value in told]
    return out


def main() -> None:
    """Forecast once what standard input holds."""
    warnings.simplefilter("ignore")
    asked = json.load(sys.stdin)
    season, ahead = asked["season_looks"], asked["ahead_looks"]
    methods: dict[str, tuple[Callable[[], Any], int]] = {
        "ETS": (lambda: AutoETS(season_length=1, model="ZZN"), FIRST_LOOKS),
        "ARIMA": (lambda: AutoARIMA(season_length=1, max_p=3, max_q=3), FIRST_LOOKS),
    }
    if season is not None and season <= SEASON_LOOKS_MAX:
        methods["Holt-Winters"] = (
            lambda: HoltWinters(season_length=season, error_type="A"),
            SEASONS_SEEN * season,
        )
    told = {}
    for name, (make, first) in methods.items():
        began_s = time.process_time()
        every = [forecasts(make, series, first=first, ahead=ahead) for series in asked["series"]]
        took_s = (time.process_time() - began_s) / max(1, len(every[0]))
        told[name] = {"forecasts": every, "look_s": took_s}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
