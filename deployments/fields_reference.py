"""Write the table of the references' fields: `python -m deployments.fields_reference`.

The fields are those of the pinned packages `openai` and `anthropic`. How the node treats each one
is read from the structs that read the bodies, and from `node.api.neutral`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import msgspec
from anthropic import types as anthropic
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from openai.types import EmbeddingCreateParams, Model, chat, responses, shared_params
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from openai.types.chat.chat_completion_message_function_tool_call_param import Function as Called
from openai.types.responses import response_input_item_param as items
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from openai.types.shared_params.response_format_json_schema import JSONSchema

from node.api import chat_schema, schema, tools
from node.api.anthropic import schema as messages
from node.api.http import answer
from node.api.neutral import NEUTRAL, Values
from node.api.responses import schema as items_schema

How = Literal["taken", "no effect", "refused"]


@dataclass(frozen=True)
class Part:
    """An object in a body: its place, the reference's types of it, and the struct that reads it."""

    path: str
    place: str
    """Empty for the body itself."""
    theirs: tuple[Any, ...]
    ours: type[msgspec.Struct]

    @property
    def names(self) -> list[str]:
        """The reference's fields."""
        kinds = [kind for one in self.theirs for kind in get_args(one) or (one,)]
        return sorted({name for kind in kinds for name in kind.__annotations__})


@dataclass(frozen=True)
class Claim:
    """How the node treats one field."""

    name: str
    how: How
    values: Values
    """Values that are accepted although they have no effect."""
    note: str
    is_required: bool = False


_CHAT: Final = "/v1/chat/completions"
_RESPONSES: Final = "/v1/responses"
_MESSAGES: Final = "/v1/messages"
PARTS: Final = (
    Part(_CHAT, "", (chats.CompletionCreateParamsStreaming,), chat_schema.ChatRequest),
    Part(_CHAT, "messages[]", (chat.ChatCompletionMessageParam,), chat_schema.Message),
    Part(
        _CHAT,
        "messages[].content[]",
        (chat.ChatCompletionContentPartParam, chat.ChatCompletionContentPartRefusalParam),
        chat_schema.TextPart,
    ),
    Part(
        _CHAT,
        "messages[].tool_calls[]",
        (chat.ChatCompletionMessageToolCallUnionParam,),
        tools.ToolCall,
    ),
    Part(_CHAT, "messages[].tool_calls[].function", (Called,), tools.FunctionCall),
    Part(_CHAT, "tools[]", (chat.ChatCompletionToolUnionParam,), tools.Tool),
    Part(_CHAT, "tools[].function", (shared_params.FunctionDefinition,), tools.Function),
    Part(
        _CHAT,
        "tool_choice",
        (
            chat.ChatCompletionNamedToolChoiceParam,
            chat.ChatCompletionAllowedToolChoiceParam,
            chat.ChatCompletionNamedToolChoiceCustomParam,
        ),
        tools.ToolChoice,
    ),
    Part(_CHAT, "response_format", (chats.ResponseFormat,), tools.ResponseFormat),
    Part(_CHAT, "response_format.json_schema", (JSONSchema,), tools.JsonSchema),
    Part(_CHAT, "stream_options", (chat.ChatCompletionStreamOptionsParam,), schema.StreamOptions),
    Part(
        "/v1/completions",
        "",
        (completions.CompletionCreateParamsStreaming,),
        schema.CompletionRequest,
    ),
    Part("/v1/embeddings", "", (EmbeddingCreateParams,), schema.EmbeddingRequest),
    Part(_RESPONSES, "", (ResponseCreateParamsStreaming,), items_schema.ResponsesRequest),
    Part(
        _RESPONSES,
        "input[]",
        (
            responses.EasyInputMessageParam,
            responses.ResponseOutputMessageParam,
            responses.ResponseFunctionToolCallParam,
            responses.ResponseReasoningItemParam,
            items.FunctionCallOutput,
        ),
        items_schema.InputItem,
    ),
    Part(
        _RESPONSES,
        "input[].content[]",
        (responses.ResponseInputTextParam, responses.ResponseOutputTextParam),
        items_schema.ContentPart,
    ),
    Part(_RESPONSES, "tools[]", (responses.FunctionToolParam,), items_schema.FunctionTool),
    Part(
        _RESPONSES,
        "tool_choice",
        (responses.ToolChoiceFunctionParam,),
        items_schema.FunctionChoice,
    ),
    Part(_RESPONSES, "text", (responses.ResponseTextConfigParam,), items_schema.TextOptions),
    Part(
        _RESPONSES,
        "text.format",
        (responses.ResponseFormatTextJSONSchemaConfigParam,),
        items_schema.TextFormat,
    ),
    Part(_RESPONSES, "reasoning", (shared_params.Reasoning,), items_schema.Reasoning),
    Part(_MESSAGES, "", (MessageCreateParamsStreaming,), messages.MessagesRequest),
    Part(_MESSAGES, "messages[]", (anthropic.MessageParam,), messages.InputMessage),
    Part(_MESSAGES, "messages[].content[]", (anthropic.TextBlockParam,), messages.TextBlock),
    Part(_MESSAGES, "tools[]", (anthropic.ToolParam,), messages.ToolParameter),
    Part(_MESSAGES, "tool_choice", (anthropic.ToolChoiceParam,), messages.ToolChoiceParameter),
    Part(_MESSAGES, "thinking", (anthropic.ThinkingConfigParam,), messages.Thinking),
    Part(f"{_MESSAGES}/count_tokens", "", (MessageCountTokensParams,), messages.CountTokensRequest),
)
NO_EFFECT: Final = {
    "user": "the caller's own id of its user",
    "metadata": "the caller's own notes",
    "safety_identifier": "like `user`",
    "prompt_cache_key": "a routing hint; the prompt cache needs none",
    "prompt_cache_retention": "like `prompt_cache_key`",
    "cache_control": "the prompt cache needs no hints",
    "response_format.json_schema.strict": "a schema that is followed at all is followed strictly",
    "text.format.strict": "a schema that is followed at all is followed strictly",
    "status": "of an item that is sent back",
    "annotations": "of an answer that is sent back",
    "input[].id": "of an item that is sent back",
    "input[].content[].logprobs": "of an answer that is sent back",
    "response_format.json_schema.name": "the schema says what the answer must be",
    "response_format.json_schema.description": "as `name`",
    "text.format.name": "the schema says what the answer must be",
    "text.format.description": "as `name`",
    "thinking.budget_tokens": "`max_tokens` limits thoughts and answer together",
}
"""Fields that are accepted with any valid value, and why that is harmless."""
_NOTES: Final = {
    "allowed_callers": "functions are called by the caller only",
    "async": "calls are answered by the caller",
    "audio": "texts only",
    "background": "nothing is stored",
    "background_options": "nothing is stored",
    "container": "Anthropic's own tools are not available",
    "context_management": "send the history that is to be used",
    "conversation": "nothing is stored",
    "custom": "functions only",
    "diagnostics": "Anthropic's own service",
    "file": "texts only",
    "function_call": "replaced by `tool_choice` and `tool_calls`",
    "functions": "replaced by `tools`",
    "image": "texts only",
    "image_url": "texts only",
    "input_audio": "texts only",
    "max_tool_calls": "limits OpenAI's own tools, which are not available",
    "modalities": "texts only",
    "moderation": "no moderation",
    "prediction": "no speculation by the caller's text",
    "previous_response_id": "nothing is stored: send the whole history",
    "prompt": "prompts are not stored at the node",
    "prompt_cache_breakpoint": "the prompt cache needs no hints",
    "prompt_cache_options": "the prompt cache needs no hints",
    "service_tier": "there is one tier",
    "speed": "there is one speed",
    "store": "nothing is stored",
    "suffix": "no text is filled in",
    "truncation": "a prompt that is too long is refused, not cut",
    "web_search_options": "no search",
    "access_programs": "OpenAI's own service",
    "allowed_tools": "send the tools that are allowed",
    "caller": "calls are answered by the caller",
    "citations": "no documents",
    "context": "the template decides what it shows of earlier thoughts",
    "defer_loading": "send the tools that are to be used",
    "dimensions": "vectors are not shortened",
    "display": "thoughts are always shown",
    "eager_input_streaming": "a call is shown when it is complete",
    "encrypted_content": "thoughts are not encrypted",
    "generate_summary": "thoughts are shown whole",
    "include_obfuscation": "nothing is padded",
    "inference_geo": "the node is where it is",
    "input_examples": "templates have no place for them",
    "mode": "there is one mode",
    "namespace": "functions have no namespaces",
    "output_config": "not available",
    "output_schema": "templates have no place for it",
    "phase": "answers have one phase",
    "refusal": "answers have no refusals of their own",
    "stream_options": "nothing is padded",
    "summary": "thoughts are shown whole",
    "user_profile_id": "Anthropic's own service",
    "verbosity": "templates do not know it",
    "workspace_id": "Anthropic's own service",
}
"""Why a field is refused, where that is not obvious."""
_HEAD: Final = """# Fields of OpenAI's and Anthropic's references

Every field of the request bodies in the packages `openai` {openai} and `anthropic` {anthropic}, and
what the node does with it:

- **taken**: the answer depends on it, as in the reference. [api.md](api.md) has the limits.
- **no effect**: any valid value is accepted; the note says why that is harmless.
- **refused**: 400, and the error names the field. The listed values mean the same as no field; they
  are accepted, and so is `null`.

`just docs` generates this page from the code that reads the bodies; a test sends each field.
"""
_COLUMNS: Final = "| field | what happens | accepted nevertheless | note |\n|---|---|---|---|"


def write_reference() -> str:
    """Return the page."""
    versions = {name: sys.modules[name].__version__ for name in ("openai", "anthropic")}
    sections = [line for part in PARTS for line in _section(part)]
    return "\n".join([_HEAD.format(**versions), *sections, *_models()])


def claims(part: Part) -> Iterator[Claim]:
    """Yield how the node treats each field of a part."""
    fields = msgspec.structs.fields(part.ours)
    required = {field.encode_name: field.required for field in fields}
    if tag := part.ours.__struct_config__.tag_field:
        required[tag] = True
    for name in part.names:
        values = NEUTRAL.get(part.ours, {}).get(name, ())
        if name in required:
            harmless = NO_EFFECT.get(f"{part.place}.{name}", NO_EFFECT.get(name, ""))
            how: How = "no effect" if harmless else "taken"
            yield Claim(name, how, values, harmless, required[name])
        else:
            yield Claim(name, "refused", values, _NOTES.get(name, ""))


def _section(part: Part) -> Iterator[str]:
    yield f"## {part.path}" if not part.place else f"### `{part.place}`"
    yield ""
    yield _COLUMNS
    for claim in claims(part):
        values = ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in claim.values)
        how = f"{claim.how}, required" if claim.is_required else claim.how
        yield f"| `{claim.name}` | {how} | {values} | {claim.note} |"
    yield ""


def _models() -> Iterator[str]:
    """Yield the section of the models, which have no body: the fields of their objects."""
    ours = {field.name for field in msgspec.structs.fields(answer.Model)}
    yield "## /v1/models, /v1/models/{model}"
    yield ""
    yield "| field of the answer | |\n|---|---|"
    for name in Model.model_fields:
        yield f"| `{name}` | {'given' if name in ours else 'absent'} |"
    yield ""
    yield "Models cannot be deleted (405)."
    yield ""


if __name__ == "__main__":
    sys.stdout.write(write_reference())
