"""Judge finished requests by the operator's service-level objectives."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exporter.metrics.catalogue.requests import FIRST_TOKEN, LATENCY, OBJECTIVES, PER_TOKEN
from exporter.metrics.rules.rule import Column
from shared.events.requests import InferenceFinished
from shared.settings.exporter import MetricsSettings


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """The limits of a good request, each a bucket bound of the family that shows it."""

    first_token_seconds: float = MetricsSettings.slo_first_token_seconds
    per_token_seconds: float = MetricsSettings.slo_per_token_seconds
    latency_seconds: float = MetricsSettings.slo_latency_seconds

    def samples(self, node: str, ended: Iterable[InferenceFinished]) -> Iterator[Column]:
        """Return a column of ones for each objective that applies to requests, and each result.

        A request that failed, timed out or was rejected is bad. A cancelled or invalid request says
        nothing about the service and is not judged.
        """
        verdicts = Counter(map(self._judge, ended))
        for (model_id, results), count in verdicts.items():
            for objective, is_good in results:
                labels = (node, model_id, objective, "good" if is_good else "bad")
                yield OBJECTIVES, labels, [1] * count

    def _judge(self, e: InferenceFinished) -> tuple[str, tuple[tuple[str, bool], ...]]:
        """Return a request's model, and whether it is good for each objective that applies."""
        if e.status == "cancelled" or (e.status == "rejected" and e.finish_reason is not None):
            return e.model_id, ()
        good = {"latency": e.status == "ok" and e.seconds <= self.latency_seconds}
        if e.first_token_seconds is not None:
            good["first_token"] = e.first_token_seconds <= self.first_token_seconds
            if e.generated_tokens > 1:
                rest = (e.seconds - e.first_token_seconds) / (e.generated_tokens - 1)
                good["per_token"] = rest <= self.per_token_seconds
        elif e.status != "ok":
            good["first_token"] = False
        good["all"] = all(good.values())
        return e.model_id, tuple(good.items())


def find_fault(objectives: Objectives, bounds: Mapping[str, tuple[float, ...]]) -> str:
    """Return which objective is not a bucket bound, so that no histogram could show it, or "".

    Args:
        objectives: What was set.
        bounds: The bucket bounds in use, by family.
    """
    for seconds, family, flag in (
        (objectives.first_token_seconds, FIRST_TOKEN, "--slo-first-token-seconds"),
        (objectives.per_token_seconds, PER_TOKEN, "--slo-per-token-seconds"),
        (objectives.latency_seconds, LATENCY, "--slo-latency-seconds"),
    ):
        allowed = bounds.get(family.name, family.buckets)
        if seconds not in allowed:
            listed = ", ".join(f"{bound:g}" for bound in allowed)
            fault = f"{flag}={seconds:g} is not a bucket bound of {family.name}"
            return f"{fault}: choose one of {listed}"
    return ""
