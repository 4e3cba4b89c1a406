"""The body of chat requests in OpenAI's API: messages, tools, and what the template is given."""

from typing import Annotated, Any, Final, Literal

import msgspec

from node.api.schema import Count, Likeliest, TextRequest
from node.api.tools import (
    MAX_TOOLS,
    FieldError,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolChoice,
    check_choice,
)
from node.errors import InvalidRequestError

TEMPLATE_NAMES: Final = frozenset(
    {
        "add_generation_prompt",
        "bos_token",
        "continue_final_message",
        "documents",
        "eos_token",
        "messages",
        "tools",
    }
)
"""What a chat template is given besides the caller's own names."""


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text part of a message, the only kind of part that is supported."""

    type: Literal["text"]
    text: str
    cache_control: dict[str, Any] | None = None
    """Anthropic's hint; it does not affect the answer."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a chat. An answer's message can be sent back unchanged.

    Raises:
        FieldError: A field that its role requires is missing.
    """

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    """For the chat template, which may use it."""
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    """The call that a message of role `tool` answers."""
    reasoning_content: str | None = None
    """What the assistant thought before this message; for the chat template."""
    reasoning: str | None = None
    """vLLM's newer name for `reasoning_content`."""
    id: str | None = None
    """A client's own name of the message; it does not affect the answer."""
    cache_control: dict[str, Any] | None = None
    """Anthropic's hint; it does not affect the answer."""
    parsed: Any = None
    """What OpenAI's client read from a structured answer; `content` has the same."""

    def __post_init__(self) -> None:
        if self.content is None and not self.tool_calls:
            raise FieldError("content", "is required")
        if self.tool_calls and self.role != "assistant":
            raise FieldError("tool_calls", "is only for messages of the role assistant")
        if self.role == "tool" and self.tool_call_id is None:
            raise FieldError("tool_call_id", "is required for the role tool")

    @property
    def text(self) -> str | None:
        """The content; parts are joined with line breaks, as in vLLM and llama.cpp."""
        if self.content is None or isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatRequest(TextRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/chat/completions`.

    If the last message is the assistant's, the answer continues that message.
    """

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    tools: Annotated[list[Tool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """Whether one answer may call several functions; true unless given."""
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    """Report each token's log-probability."""
    top_logprobs: Likeliest | None = None
    """With `logprobs`: report this many of the likeliest tokens at each position."""
    max_completion_tokens: Count | None = None
    safety_identifier: str | None = None
    """Like `user`, which it replaces at OpenAI."""
    prompt_cache_key: str | None = None
    """A routing hint at OpenAI; it does not affect the answer."""
    prompt_cache_retention: str | None = None
    """Like `prompt_cache_key`."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further names for the chat template, such as `enable_thinking`."""
    reasoning_effort: Effort | None = None
    """How much to think, if the template lets the caller choose; `none` also sets its
    `enable_thinking` to false."""
    continue_final_message: bool | None = None
    """vLLM's field; accepted if it matches what happens anyway."""
    add_generation_prompt: bool | None = None
    """Like `continue_final_message`, with the opposite meaning."""

    @property
    def output_limit(self) -> int:
        """The caller's limit of tokens; the lower of two limits applies."""
        return min(filter(None, (self.max_completion_tokens, self.max_tokens)), default=0)

    @property
    def template_options(self) -> dict[str, Any]:
        """The names that the template is given besides the chat's own."""
        effort = self.reasoning_effort
        chosen: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
        if effort == "none":
            chosen["enable_thinking"] = False
        return chosen | (self.chat_template_kwargs or {})

    @property
    def likeliest(self) -> int | None:
        """How many likely tokens to report with each token's likelihood; None for neither."""
        return self.top_logprobs or 0 if self.logprobs else None

    def check(self) -> None:
        """Also check that vLLM's switches match the message that the answer continues.

        Raises:
            InvalidRequestError: The fields contradict each other.
        """
        super().check()
        if named := sorted(TEMPLATE_NAMES.intersection(self.chat_template_kwargs or ())):
            message = f"`chat_template_kwargs.{named[0]}` cannot be set: the request decides it"
            raise InvalidRequestError(message, parameter="chat_template_kwargs")
        check_choice(self.tool_choice, [tool.function.name for tool in self.tools or ()])
        if self.top_logprobs and not self.logprobs:
            message = "`top_logprobs` needs `logprobs`: set logprobs to true as well"
            raise InvalidRequestError(message, parameter="top_logprobs")
        if self.messages[-1].tool_calls:
            message = "the last message calls tools: send their results in messages of role tool"
            raise InvalidRequestError(message, parameter="messages")
        continues = self.messages[-1].role == "assistant"
        for name, asked in (
            ("continue_final_message", self.continue_final_message),
            ("add_generation_prompt", _opposite(self.add_generation_prompt)),
        ):
            if asked not in (None, continues):
                message = (
                    f"`{name}` does not fit the messages: the answer continues the last message "
                    "if, and only if, that is the assistant's"
                )
                raise InvalidRequestError(message, parameter=name)


def _opposite(switch: bool | None) -> bool | None:  # noqa: FBT001 - a value, not an option
    return None if switch is None else not switch
