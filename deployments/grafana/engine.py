"""The dashboard row about the engines: pauses, batches, context, speculation and memory."""

from collections.abc import Iterator

from grafana_foundation_sdk.models import units

from deployments.grafana.panels import PanelBuilder, heat, series
from deployments.grafana.queries import MODEL, RATE, quantiles, rate


def engine() -> Iterator[PanelBuilder]:
    """What do the engines do with their slots, their context and their memory?"""
    gaps = "distributed_llm_inference_inter_token_seconds"
    yield heat(
        "Gaps between tokens",
        "Seconds between two tokens of an answer. A second band above the first shows pauses in "
        "the middle of streams.",
        f"sum by (le) (increase({gaps}_bucket{{{MODEL}}}{RATE}))",
        width=8,
    )
    yield series(
        "Gap between tokens",
        "Half, and 99%, of the gaps between two tokens of an answer are shorter.",
        *quantiles(gaps, MODEL, "model_id", (0.5, 0.99)),
        unit=units.Seconds,
    )
    total, samples = (
        rate(f"engine_sequences_{part}", MODEL, "model_id") for part in ("sum", "count")
    )
    yield series(
        "Sequences decoded together",
        "Mean number of requests whose next tokens a working engine computes in one step.",
        (f"{total} / {samples}", "{{model_id}}"),
    )
    yield series(
        "Context tokens",
        "Tokens in all slots: of current requests, held for later prompts as well, and how many "
        "fit. No data: the engine does not report them.",
        (
            f"sum by (model_id, state) (distributed_llm_engine_context_tokens{{{MODEL}}})",
            "{{state}} {{model_id}}",
        ),
    )
    yield series(
        "Context in use",
        "Share of the tokens of all slots that current requests use. At 100% longer answers do not "
        "fit.",
        (
            f"distributed_llm_engine_context_usage_ratio{{{MODEL}}}",
            "{{model_id}} on {{node_id}}",
        ),
        unit=units.PercentUnit,
    )
    drafted, accepted = (
        rate("inference_speculative_tokens_total", f'{MODEL}, result="{result}"', "model_id")
        for result in ("drafted", "accepted")
    )
    yield series(
        "Drafted tokens accepted",
        "Share of the drafted tokens that the model accepted. No data: nothing is drafted.",
        (f"{accepted} / ({drafted} > 0)", "{{model_id}}"),
        unit=units.PercentUnit,
    )
    yield series(
        "Memory by device",
        "Bytes of each model on each device, as the engine reports them.",
        (
            f"sum by (node_id, model_id, device) (distributed_llm_engine_memory_bytes{{{MODEL}}})",
            "{{model_id}} {{device}} on {{node_id}}",
        ),
        unit=units.BytesIEC,
        stacked=True,
    )
