"""Common queries of the dashboard, limited to the series that its variables select."""

from typing import Final

PREFIX: Final = "distributed_llm_"
PLACE: Final = 'cluster=~"$cluster", namespace=~"$namespace"'
"""Labels that only some Prometheus servers add: `All` also matches series without them."""
JOB: Final = f'{PLACE}, job=~"$job"'
NODE: Final = f'{JOB}, node_id=~"$node"'
MODEL: Final = f'{NODE}, model_id=~"$model"'
SERVICE: Final = f'{JOB}, model_id=~"$model"'
RATE: Final = "[$__rate_interval]"

ALLOWED: Final = 0.01
"""The share of bad requests that an objective of 99% allows, as in the alerts."""


def rate(metric: str, labels: str, by: str = "") -> str:
    """Return the query of a counter's increase per second."""
    return f"sum{_by(by)} (rate({PREFIX}{metric}{{{labels}}}{RATE}))"


def grown(metric: str, labels: str, by: str) -> str:
    """Return the query of a counter's increase over five minutes, for rare events."""
    return f"sum{_by(by)} (increase({PREFIX}{metric}{{{labels}}}[5m]))"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def quantiles(
    metric: str, labels: str, by: str, shares: tuple[float, ...] = (0.5, 0.9, 0.99)
) -> list[tuple[str, str]]:
    """Return the queries of a histogram's quantiles, each with its legend."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [
        (
            (
                f"histogram_quantile({share:g}, sum by ({by}, le) "
                f"(rate({metric}_bucket{{{labels}}}{RATE})))"
            ),
            f"p{share * 100:g} {legend}",
        )
        for share in shares
    ]
