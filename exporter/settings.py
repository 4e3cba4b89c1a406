"""The exporter's settings: the only list of its options."""

import dataclasses
import grp
import itertools
from collections.abc import Mapping
from typing import Any

import click

from exporter.metrics.catalogue import FAMILIES
from exporter.metrics.objectives import Objectives, find_fault
from shared.settings import POSITIVE, MetricsSettings, Number, UsageError, setting

Bounds = Mapping[str, tuple[float, ...]]


class _Buckets(click.ParamType[Bounds]):
    """Bucket bounds by family, as in `inference_latency_seconds=1,5,30;…`."""

    name = "family=1,2,…;…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Bounds:
        if not isinstance(value, str):
            return dict(value)
        bounds = {}
        for part in filter(None, value.split(";")):
            name, _, numbers = part.partition("=")
            if name not in _HISTOGRAMS:
                self.fail(f"{name!r} is no histogram.", param, ctx)
            bounds[name] = self._read(name, numbers, param, ctx)
        return bounds

    def _read(
        self, name: str, numbers: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        try:
            bounds = tuple(map(float, numbers.split(",")))
        except ValueError:
            self.fail(f"the buckets of {name} are not all numbers: {numbers!r}.", param, ctx)
        rising = all(low < high for low, high in itertools.pairwise((*bounds, float("inf"))))
        if not rising or bounds[0] < 0:
            self.fail(f"the buckets of {name} are not rising: {numbers!r}.", param, ctx)
        return bounds


class _Group(click.ParamType[int]):
    """A group of the system by name or number; a container has numbers only."""

    name = "group"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int) or value.isdecimal():
            return int(value)
        try:
            return grp.getgrnam(value).gr_gid
        except KeyError:
            self.fail(f"{value!r} is no group of this system.", param, ctx)


_HISTOGRAMS = frozenset(family.name for family in FAMILIES if family.kind == "histogram")
_OBJECTIVES = Objectives()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExporterSettings(MetricsSettings):
    """What the exporter is told."""

    series_budget: int = setting(
        10_000, click.IntRange(min=1), "Series that one metric may have; the rest become 'other'."
    )
    node_timeout_seconds: float = setting(
        2.5, Number(min=1.5), "Seconds of silence after which a node counts as gone."
    )
    engine_silence_seconds: float = setting(
        30.0, POSITIVE, "Seconds of work without progress after which an engine counts as stalled."
    )
    buckets: Bounds = setting(
        "", _Buckets(), "Bucket bounds of histograms that shall have others than the usual."
    )
    slo_first_token_seconds: float = setting(
        _OBJECTIVES.first_token_seconds, POSITIVE, "Longest time to first token of a good request."
    )
    slo_per_token_seconds: float = setting(
        _OBJECTIVES.per_token_seconds, POSITIVE, "Longest time per later token of a good request."
    )
    slo_latency_seconds: float = setting(
        _OBJECTIVES.latency_seconds, POSITIVE, "Longest duration of a good request."
    )
    socket_group: int | None = setting(
        None, _Group(), "Group whose members may send events, too; without it only this user."
    )

    @property
    def objectives(self) -> Objectives:
        """What a good request is."""
        return Objectives(
            first_token_seconds=self.slo_first_token_seconds,
            per_token_seconds=self.slo_per_token_seconds,
            latency_seconds=self.slo_latency_seconds,
        )

    def check(self) -> None:
        """Look also whether the objectives can be shown by the buckets.

        Raises:
            UsageError: The settings do not go together.
        """
        super().check()
        if fault := find_fault(self.objectives, self.buckets):
            raise UsageError(fault)
