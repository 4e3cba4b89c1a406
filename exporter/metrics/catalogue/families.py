"""All families, in the order of the exposition and of the reference page."""

from typing import Final

from exporter.metrics.catalogue import (
    api,
    engine,
    exporter,
    health,
    mesh,
    models,
    node,
    pipelines,
    requests,
    system,
    telemetry,
)
from exporter.metrics.catalogue.family import Family

_TOPICS: Final = (
    *(node, mesh, pipelines, requests, api, models, engine, system),
    *(health, telemetry, exporter),
)
FAMILIES: Final[tuple[Family, ...]] = tuple(
    value for topic in _TOPICS for value in vars(topic).values() if isinstance(value, Family)
)
