"""Runs the llama-server inside the xllamacpp wheel; the only module that imports it.

`python -m node.engine.llama_cpp.server FLAGS` takes those flags of llama-server that the node and
its operators use, so that one adapter drives this program and any llama-server. Runs until it is
killed.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

_Setter = Callable[[Any, str], None]

_UNUSABLE: Final = (
    "the llama-server inside xllamacpp cannot be loaded ({}): install libgomp1 (Debian: apt-get "
    "install libgomp1), or set --llama-server to another llama-server"
)


class FlagError(Exception):
    """A flag is unknown or its value is invalid; the text is one line."""


def _attribute(path: str, kind: Callable[[str], Any]) -> _Setter:
    """Return what stores a flag's value in an attribute, perhaps of an inner object."""
    *owners, name = path.split(".")

    def store(parameters: Any, value: str) -> None:
        owner = parameters
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, name, kind(value))

    return store


def _choice(path: str, enumeration: str, prefix: str) -> _Setter:
    """Return what stores a member of one of the library's enumerations, named by its suffix."""

    def member(value: str) -> Any:
        import xllamacpp  # noqa: PLC0415 - see main

        return getattr(getattr(xllamacpp, enumeration), prefix + value.upper())

    return _attribute(path, member)


_VALUES: Final[Mapping[str, _Setter]] = {
    "--batch-size": _attribute("n_batch", int),
    "--cache-ram": _attribute("cache_ram_mib", int),
    "--cache-reuse": _attribute("n_cache_reuse", int),
    "--cache-type-k": _choice("cache_type_k", "ggml_type", "GGML_TYPE_"),
    "--cache-type-v": _choice("cache_type_v", "ggml_type", "GGML_TYPE_"),
    "--chat-template": _attribute("chat_template", str),
    "--ctx-checkpoints": _attribute("n_ctx_checkpoints", int),
    "--ctx-size": _attribute("n_ctx", int),
    "--flash-attn": _choice("flash_attn_type", "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_"),
    "--host": _attribute("hostnames", lambda value: [value]),
    "--model": _attribute("model.path", str),
    "--n-gpu-layers": _attribute("n_gpu_layers", int),
    "--parallel": _attribute("n_parallel", int),
    "--poll": _attribute("cpuparams.poll", int),
    "--pooling": _choice("pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_"),
    "--rope-freq-base": _attribute("rope_freq_base", float),
    "--rope-freq-scale": _attribute("rope_freq_scale", float),
    "--slot-prompt-similarity": _attribute("slot_prompt_similarity", float),
    "--threads": _attribute("cpuparams.n_threads", int),
    "--threads-batch": _attribute("cpuparams_batch.n_threads", int),
    "--threads-http": _attribute("n_threads_http", int),
    "--ubatch-size": _attribute("n_ubatch", int),
    "--verbosity": _attribute("verbosity", int),
}
"""llama-server's flags with a value, and where the library keeps it."""
_SWITCHES: Final[Mapping[str, tuple[str, bool] | None]] = {
    "--context-shift": ("ctx_shift", True),
    "--embeddings": ("embedding", True),
    "--jinja": ("use_jinja", True),
    "--log-prefix": None,
    "--no-kv-offload": ("no_kv_offload", True),
    "--no-warmup": ("warmup", False),
    "--no-webui": ("ui", False),
    "--swa-full": ("swa_full", True),
}
"""Flags without a value, and the attribute that they set; None for what is always so."""


def apply(parameters: Any, flags: Sequence[str]) -> None:
    """Set parameters of the library by flags of llama-server.

    Raises:
        FlagError: A flag is unknown, has no value or an invalid one.
    """
    rest = iter(flags)
    for flag in rest:
        if flag in _SWITCHES:
            if changed := _SWITCHES[flag]:
                setattr(parameters, *changed)
        elif flag in _VALUES:
            _store(parameters, flag, rest)
        else:
            known = ", ".join(sorted({*_VALUES, *_SWITCHES}))
            raise FlagError(
                f"the llama-server inside xllamacpp does not know {flag}, only {known}: "
                "set --llama-server to a complete llama-server"
            )


def _store(parameters: Any, flag: str, rest: Iterator[str]) -> None:
    value = next(rest, None)
    if value is None:
        raise FlagError(f"{flag} needs a value")
    try:
        _VALUES[flag](parameters, value)
    except (ValueError, AttributeError, OverflowError) as error:
        raise FlagError(f"{flag} does not take the value {value!r}: {error}") from error


def main(flags: Sequence[str]) -> int:
    """Serve until killed. Return 1 after one line on standard error if that is impossible."""
    try:
        import xllamacpp  # noqa: PLC0415 - a failure is reported as one line
    except ImportError as error:
        return _fail(_UNUSABLE.format(error))
    parameters = xllamacpp.CommonParams()
    try:
        apply(parameters, flags)
        server = xllamacpp.Server(parameters)
    except (FlagError, RuntimeError) as error:
        return _fail(str(error))
    threading.Event().wait()
    del server  # it serves for as long as it exists
    return 0


def _fail(why: str) -> int:
    sys.stdout.flush()
    os.write(sys.stderr.fileno(), f"{' '.join(why.split())}\n".encode())
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
