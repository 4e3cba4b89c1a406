"""Builds the engine and the lane of each model; `node.main` runs them."""

import math
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path

import trio

from node import machine
from node.engine.buffers import BATCH_TOKENS
from node.engine.ctransformers.process import open_child
from node.engine.describe import describe
from node.engine.link import Link
from node.engine.llama_cpp.flags import split_flags
from node.engine.llama_cpp.options import LlamaOptions
from node.engine.llama_cpp.process import open_llama_server
from node.engine.llama_cpp.socket_path import writable_directory
from node.engine.options import EngineOptions, Watcher
from node.engine.protocol import EngineName
from node.engine.supervisor import Engine
from node.engine.upstream.address import Address
from node.engine.upstream.options import upstream_options
from node.memory import Memory
from node.pipeline.coordinator import Coordinator
from node.requests.account import Emit
from node.serving.catalogue import Model
from node.serving.downloads.download import fetch
from node.serving.downloads.source import HubFile
from node.serving.lane import Lane, LaneOptions
from node.settings import NodeSettings
from node.telemetry.progress import Progress


def add_models(models: list[Model], memory: Memory, coordinator: Coordinator, emit: Emit) -> None:
    """Add the models to the scheduler."""
    scheduler, settings = memory.scheduler, memory.settings

    def note_engine() -> None:
        # The levels of a model end with its engine; requests may wait for the next engine.
        for lane in scheduler.lanes:
            lane.tell_load()
        scheduler.note_change()

    threads, engines = threads_of(settings)
    turns = trio.CapacityLimiter(engines)
    watcher = Watcher(emit, memory.find_room, note_engine, coordinator.place)
    options = LaneOptions(
        queue_limit=settings.queue, idle_seconds=settings.idle_unload_seconds or math.inf
    )
    for model in models:
        engine_options = _engine_options(model, threads, memory, coordinator, emit)
        needed = trio.CapacityLimiter(1) if model.is_elsewhere else turns  # it needs no cores here
        engine = Engine(model.model_id, engine_options, watcher)
        engine.resident = model.resident
        scheduler.add(Lane(engine, options, needed, emit, scheduler.note_change))


def threads_of(settings: NodeSettings) -> tuple[int, int]:
    """Return the threads of an engine, and how many engines the cores can run at once."""
    cores = machine.usable_cores()
    threads = settings.threads or machine.engine_threads(cores)
    return threads, max(1, int(cores) // threads)


def _engine_options(
    model: Model,
    threads: int,
    memory: Memory,
    coordinator: Coordinator,
    emit: Emit,
) -> EngineOptions:
    settings = memory.settings
    if isinstance(model.source, Address):
        return upstream_options(model.source, model.model_id, model.wanted, settings.stall_seconds)

    def llama() -> LlamaOptions:
        return LlamaOptions(
            writable_directory(settings.runtime_dir, settings.state_dir),
            model.model_id,
            settings.llama_server,
            settings.gpu_layers,
            split_flags(settings.llama_server_args),
        )

    def open_link(engine: EngineName) -> AbstractAsyncContextManager[Link]:
        return open_child() if engine == "ctransformers" else open_llama_server(llama())

    return EngineOptions(
        place=model.place,
        locate=partial(_locate, model.model_id, model.source, emit),
        describe=lambda path: describe(path, model.wanted, memory.room_bytes()),
        open_link=open_link,
        open_pipeline=lambda place: coordinator.open(model.model_id, place, llama()),
        threads=threads,
        batch_tokens=BATCH_TOKENS,
        load_seconds=settings.load_seconds,
        stall_seconds=settings.stall_seconds,
    )


async def _locate(model_id: str, source: Path | HubFile, emit: Emit) -> Path:
    """Return the path of a model's file, after its download if there must be one."""
    if isinstance(source, Path):
        return source
    with closing(Progress(model_id, "download", emit)) as progress:
        return await fetch(source, progress.note)
