"""Values with no effect that clients send for unsupported fields.

Each table belongs to one struct of `node.api.schema`. A listed field may have one of its values, or
null; it then counts as not given. Any other value is refused by the field's name, unless the struct
has the field as well. Sources: the API references of OpenAI, vLLM, llama.cpp's server, Ollama and
Hugging Face's text-generation-inference.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from node.api.anthropic.schema import (
    CountTokensRequest,
    InputMessage,
    MessagesRequest,
    TextBlock,
    Thinking,
    ToolParameter,
)
from node.api.chat_schema import ChatRequest, Message, TextPart
from node.api.rerank_schema import RerankRequest
from node.api.responses.schema import (
    ContentPart,
    FunctionTool,
    InputItem,
    Reasoning,
    ResponsesRequest,
    TextOptions,
)
from node.api.schema import CompletionRequest, EmbeddingRequest, StreamOptions
from node.api.token_schema import DetokenizeRequest, TemplateRequest, TokenizeRequest
from node.api.tools import (
    ChosenFunction,
    Function,
    FunctionCall,
    JsonSchema,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolChoice,
)

Values = tuple[Any, ...]

_ONLY_NULL: Final[Values] = ()
_OFF: Final[Values] = (False,)
_ZERO: Final[Values] = (0,)
_ONE: Final[Values] = (1,)
_EMPTY_TEXT: Final[Values] = ("",)
_EMPTY_LIST: Final[Values] = ([],)
_EMPTY_OBJECT: Final[Values] = ({},)

_OPENAI_TEXT: Final[dict[str, Values]] = {
    "max_tokens": (-1,),
    "service_tier": ("auto", "default"),
    "stop": _EMPTY_TEXT,
    "store": _OFF,
}
_VLLM_TEXT: Final[dict[str, Values]] = {
    "allowed_token_ids": _EMPTY_LIST,
    "bad_words": _EMPTY_LIST,
    "cache_salt": _ONLY_NULL,
    "detokenize": (True,),
    "guided_choice": _EMPTY_LIST,
    "guided_decoding_backend": _ONLY_NULL,
    "guided_grammar": _ONLY_NULL,
    "guided_json": _ONLY_NULL,
    "guided_regex": _ONLY_NULL,
    "guided_whitespace_pattern": _ONLY_NULL,
    "include_stop_str_in_output": _OFF,
    "kv_transfer_params": _ONLY_NULL,
    "length_penalty": _ONE,
    "logits_processors": _EMPTY_LIST,
    "priority": _ZERO,
    "prompt_logprobs": _ONLY_NULL,
    "return_token_ids": _OFF,
    "return_tokens_as_token_ids": _OFF,
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "structured_outputs": _ONLY_NULL,
    "truncate_prompt_tokens": _ONLY_NULL,
    "use_beam_search": _OFF,
    "vllm_xargs": _EMPTY_OBJECT,
}
_LLAMA_CPP_TEXT: Final[dict[str, Values]] = {
    "cache_prompt": (True,),
    "dry_allowed_length": (2,),
    "dry_base": (1.75,),
    "dry_multiplier": _ZERO,
    "dry_penalty_last_n": (-1, 0),
    "dry_sequence_breakers": ([], ["\n", ":", '"', "*"]),
    "dynatemp_exponent": _ONE,
    "dynatemp_range": _ZERO,
    "grammar": _EMPTY_TEXT,
    "id_slot": (-1,),
    "image_data": _EMPTY_LIST,
    "json_schema": _EMPTY_OBJECT,
    "lora": _EMPTY_LIST,
    "min_keep": _ZERO,
    "mirostat": _ZERO,
    "mirostat_eta": (0.1,),
    "mirostat_tau": (5,),
    "n_discard": _ZERO,
    "n_indent": _ZERO,
    "n_keep": _ZERO,
    "n_predict": (-1,),
    "n_probs": _ZERO,
    "post_sampling_probs": _OFF,
    "response_fields": _EMPTY_LIST,
    "return_progress": _OFF,
    "return_tokens": _OFF,
    "t_max_predict_ms": (-1, 0),
    "tfs_z": _ONE,
    "timings_per_token": _OFF,
    "top_n_sigma": (-1, 0),
    "xtc_probability": _ZERO,
    "xtc_threshold": (0.1,),
}
_OTHER_TEXT: Final[dict[str, Values]] = {
    "details": _OFF,
    "format": _EMPTY_TEXT,
    "keep_alive": _ONLY_NULL,
    "options": _EMPTY_OBJECT,
    "raw": _OFF,
    "return_full_text": _OFF,
    "think": _OFF,
    "top_n_tokens": _ZERO,
    "truncate": _ONLY_NULL,
    "watermark": _OFF,
}
_CHAT: Final[dict[str, Values]] = {
    "audio": _ONLY_NULL,
    "chat_template": _EMPTY_TEXT,
    "documents": _EMPTY_LIST,
    "function_call": ("none", "auto"),
    "functions": _EMPTY_LIST,
    "include_reasoning": (True, False),
    "max_completion_tokens": (-1,),
    "mm_processor_kwargs": _EMPTY_OBJECT,
    "modalities": (["text"],),
    "moderation": _ONLY_NULL,
    "prediction": _ONLY_NULL,
    "prompt_cache_options": _EMPTY_OBJECT,
    "reasoning_format": ("none", "auto"),
    "verbosity": ("medium",),
    "web_search_options": _ONLY_NULL,
}
_CHAT_ONLY: Final[dict[str, Values]] = {
    "chat_template_kwargs": _EMPTY_OBJECT,
    "parallel_tool_calls": (True, False),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": _EMPTY_LIST,
    "top_logprobs": _ZERO,
}
_ANTHROPIC: Final[dict[str, Values]] = dict.fromkeys(
    ("output_config", "speed", "user_profile_id", "workspace_id"), _ONLY_NULL
)
_TEXT: Final = _OPENAI_TEXT | _VLLM_TEXT | _LLAMA_CPP_TEXT | _OTHER_TEXT | _CHAT
"""One table for both: clients add the same fields to either."""

NEUTRAL: Final[Mapping[type[msgspec.Struct], Mapping[str, Values]]] = {
    CompletionRequest: _TEXT
    | _CHAT_ONLY
    | {"add_special_tokens": (True,), "logprobs": _OFF, "suffix": _EMPTY_TEXT},
    ChatRequest: _TEXT
    | {"add_special_tokens": _OFF, "best_of": _ONE, "echo": _OFF, "suffix": _EMPTY_TEXT},
    EmbeddingRequest: {
        "add_special_tokens": (True,),
        "dimensions": _ONLY_NULL,
        "embd_normalize": (2,),
        "keep_alive": _ONLY_NULL,
        "normalize": (True,),
        "options": _EMPTY_OBJECT,
        "priority": _ZERO,
        "truncate": _OFF,
        "truncate_prompt_tokens": _ONLY_NULL,
    },
    TokenizeRequest: {
        "add_generation_prompt": (True,),
        "add_special": (True,),
        "add_special_tokens": (True,),
        "parse_special": _OFF,
        "return_token_strs": _OFF,
        "with_pieces": _OFF,
    },
    DetokenizeRequest: {},
    RerankRequest: {
        "max_chunks_per_doc": _ONLY_NULL,
        "max_tokens_per_doc": _ONLY_NULL,
        "priority": _ZERO,
        "truncate_prompt_tokens": _ONLY_NULL,
    },
    ResponsesRequest: {
        "background": _OFF,
        "context_management": _EMPTY_LIST,
        "conversation": _ONLY_NULL,
        "max_tool_calls": _ONLY_NULL,
        "moderation": _ONLY_NULL,
        "previous_response_id": _ONLY_NULL,
        "prompt": _ONLY_NULL,
        "prompt_cache_options": _EMPTY_OBJECT,
        "service_tier": ("auto", "default"),
        "store": _OFF,
        "stream_options": (*_EMPTY_OBJECT, {"include_obfuscation": False}),
        "truncation": ("disabled",),
        **dict.fromkeys(("access_programs", "background_options", "image"), _ONLY_NULL),
    },
    InputItem: {
        "encrypted_content": _EMPTY_TEXT,
        **dict.fromkeys(("caller", "namespace", "phase", "async"), _ONLY_NULL),
    },
    TextOptions: {"verbosity": ("medium",)},
    Reasoning: {
        **dict.fromkeys(("context", "mode"), _ONLY_NULL),
        "generate_summary": ("auto",),
        "summary": ("auto",),
    },
    ContentPart: {"prompt_cache_breakpoint": _ONLY_NULL},
    FunctionTool: dict.fromkeys(
        ("allowed_callers", "async", "defer_loading", "output_schema"), _ONLY_NULL
    ),
    MessagesRequest: _ANTHROPIC
    | {
        "container": _ONLY_NULL,
        "context_management": _ONLY_NULL,
        "diagnostics": _ONLY_NULL,
        "inference_geo": _ONLY_NULL,
        "mcp_servers": _EMPTY_LIST,
        "service_tier": ("auto", "standard_only"),
    },
    CountTokensRequest: _ANTHROPIC,
    TextBlock: {"citations": _EMPTY_LIST},
    InputMessage: {},
    ToolParameter: {
        **dict.fromkeys(("allowed_callers", "defer_loading"), _ONLY_NULL),
        **dict.fromkeys(("eager_input_streaming", "input_examples"), _ONLY_NULL),
    },
    Thinking: {"display": _ONLY_NULL},
    TemplateRequest: {"add_generation_prompt": (True,)},
    StreamOptions: {"include_obfuscation": _OFF},
    Message: {
        "annotations": _EMPTY_LIST,
        "audio": _ONLY_NULL,
        "function_call": _ONLY_NULL,
        "refusal": _EMPTY_TEXT,
    },
    TextPart: {"annotations": _EMPTY_LIST}
    | dict.fromkeys(
        ("prompt_cache_breakpoint", "file", "image_url", "input_audio", "refusal"), _ONLY_NULL
    ),
    Tool: {"custom": _ONLY_NULL},
    Function: {},
    ToolChoice: dict.fromkeys(("allowed_tools", "custom"), _ONLY_NULL),
    ChosenFunction: {},
    ResponseFormat: {},
    JsonSchema: {},
    ToolCall: {"custom": _ONLY_NULL},
    FunctionCall: {},
}


def is_neutral(value: object, values: Values) -> bool:
    """Return whether a field with this value counts as not given; `false` is not 0 here."""
    return value is None or any(
        isinstance(value, bool) == isinstance(one, bool) and value == one for one in values
    )
