"""What the engine of a model does."""

from collections.abc import Iterator
from typing import Final

from exporter.metrics.catalogue.engine import (
    ENGINE_CONTEXT,
    ENGINE_CONTEXT_USAGE,
    ENGINE_PROGRESS,
    ENGINE_RESTARTS,
    ENGINE_SEQUENCES,
    ENGINE_SILENCE,
)
from exporter.metrics.catalogue.requests import TOKENS_SPECULATED
from exporter.metrics.grouping import split_by_model
from exporter.metrics.rules.rule import Column, GroupRule, Rule, Sample
from shared.events.engine import EngineProgressed, EngineRestarted, EngineSampled, TokensSpeculated
from shared.events.event import Event


def _engine_restarted(node: str, e: EngineRestarted) -> tuple[Sample, ...]:
    return ((ENGINE_RESTARTS, (node, e.model_id, e.reason), 1),)


def _engine_progressed(node: str, progressed: list[EngineProgressed]) -> Iterator[Column]:
    for model, group in split_by_model(node, progressed):
        yield ENGINE_PROGRESS, model, [e.at for e in group if e.at]
        yield ENGINE_SILENCE, model, [e.silent_seconds for e in group]


def _engine_sampled(node: str, e: EngineSampled) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    decoding = ((ENGINE_SEQUENCES, model, e.decoding),) if e.decoding else ()
    context = (("used", e.context_used), ("held", e.context_held), ("capacity", e.context_capacity))
    known = [(ENGINE_CONTEXT, (*model, state), n) for state, n in context if n is not None]
    usage: tuple[Sample, ...] = ()
    if e.context_used is not None and e.context_capacity:
        usage = ((ENGINE_CONTEXT_USAGE, model, e.context_used / e.context_capacity),)
    return (*decoding, *known, *usage)


def _tokens_speculated(node: str, e: TokensSpeculated) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return (
        (TOKENS_SPECULATED, (*model, "drafted"), e.drafted),
        (TOKENS_SPECULATED, (*model, "accepted"), e.accepted),
    )


RULES: Final[dict[type[Event], Rule]] = {
    EngineRestarted: _engine_restarted,
    EngineSampled: _engine_sampled,
    TokensSpeculated: _tokens_speculated,
}
GROUP_RULES: Final[dict[type[Event], GroupRule]] = {
    EngineProgressed: _engine_progressed,
}
