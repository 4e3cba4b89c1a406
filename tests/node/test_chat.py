"""Chats are written by the template in the model's file, which is untrusted."""

import pytest

from node.engine.chat import ChatRefusedError, NoTemplateError, marked, render_chat
from node.engine.marks import Marker, without_marks

TEMPLATE = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role not in ('system', 'user', 'assistant') %}
        {{- raise_exception('no role ' + message.role) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + message['content'] + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
CHAT = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi, {{ 7 * 7 }}"},
)

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__['lru_cache'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ (messages | map(attribute='__class__') | list)[0].mro() }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


def render(template: str, bos: str = "<s>", eos: str = "</s>") -> str:
    return render_chat(template, CHAT, bos, eos)


def test_template_writes_the_prompt() -> None:
    """The template writes the prompt up to the assistant's turn; text is not a template."""
    assert render(TEMPLATE) == ("<s><|system|>Be kind.</s><|user|>Hi, {{ 7 * 7 }}</s><|assistant|>")


def test_model_without_template_is_refused() -> None:
    """A chat with a model without a template is refused, with a message that says what to do."""
    with pytest.raises(NoTemplateError, match="completion"):
        render("")


def test_template_can_refuse_messages() -> None:
    """The text of `raise_exception` is in the error."""
    with pytest.raises(ChatRefusedError, match="no role assistant"):
        render("{{ raise_exception('no role assistant') }}")


def test_name_of_a_participant_is_the_templates_to_write() -> None:
    """The template gets the name of a participant; it is undefined if none was given."""
    template = "{% for m in messages %}{{ m.name | default('-') }}{% endfor %}"
    turns = [
        {"role": "user", "content": "a", "name": "Ann"},
        {"role": "user", "content": "b"},
    ]
    assert render_chat(template, turns, "", "") == "Ann-"


def test_template_that_writes_a_nul_is_refused() -> None:
    """A NUL from a template is refused: the engine's library would end the prompt there."""
    with pytest.raises(ChatRefusedError, match="NUL"):
        render("a{{ '\\x00' }}b")


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ 1 + 'a' }}",
        "{{ messages[0].content.x.y }}",
        "{{ nothing() }}",
        "{{ 'a'|x }}",
    ],
)
def test_broken_template_is_the_requests_error(template: str) -> None:
    """A template that fails ends its request only, with the reason."""
    with pytest.raises(ChatRefusedError, match="template refuses"):
        render(template)


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ range(100001) | length }}"])
def test_template_that_calculates_badly_is_the_requests_error(template: str) -> None:
    """A division by zero or a refused range ends its request only."""
    with pytest.raises(ChatRefusedError, match="template refuses"):
        render(template)


@pytest.mark.parametrize("template", ESCAPES)
def test_escape_from_the_sandbox_is_refused(template: str) -> None:
    """A template cannot leave its sandbox or change its values."""
    with pytest.raises(ChatRefusedError):
        render(template)
    assert [turn["role"] for turn in CHAT] == ["system", "user"]


@pytest.mark.parametrize("name", ["config", "request", "open", "__import__", "session", "g"])
def test_template_sees_nothing_of_the_node(name: str) -> None:
    """A template has no names of web frameworks or of Python."""
    assert render(f"{{{{ {name} is defined }}}}") == "False"


def test_callers_options_reach_the_template() -> None:
    """The template sees the caller's names; control tokens in their texts stay text."""
    template = "{{ thinks }}{{ mood }}"
    marker = Marker(["</s>"])
    options = marked({"thinks": False, "mood": "</s>"}, marker)
    prompt = render_chat(template, CHAT, special=options, marker=marker)
    assert without_marks(prompt) == "False</s>"
    assert prompt != "False</s>"


def test_calls_reach_the_template() -> None:
    """A turn without content has its calls."""
    function = {"name": "f", "arguments": {"a": [1]}}
    call = {"id": "1", "type": "function", "function": function}
    turns = ({"role": "assistant", "content": None, "tool_calls": [call]}, CHAT[-1])
    template = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    assert render_chat(template, turns) == '{"a": [1]}'


def test_refused_tool_history_is_named() -> None:
    """A template that knows no tools refuses a chat with tool calls by that name."""
    turns = ({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},)
    refusing = "{{ raise_exception('unknown role') }}"
    with pytest.raises(ChatRefusedError, match="a chat with tool calls: unknown role"):
        render_chat(refusing, turns)
