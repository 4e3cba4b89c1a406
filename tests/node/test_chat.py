"""Chats are written by the model file's template, which is a stranger's program."""

import pytest

from node.engine.chat import ChatRefusedError, NoTemplateError, render_chat

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
    """The prompt is the template's, open for the assistant's turn; text is never a template."""
    assert render(TEMPLATE) == ("<s><|system|>Be kind.</s><|user|>Hi, {{ 7 * 7 }}</s><|assistant|>")


def test_model_without_template_is_refused() -> None:
    """Without a template nobody knows the form of a chat; the message says what to do."""
    with pytest.raises(NoTemplateError, match="completion"):
        render("")


def test_template_can_refuse_messages() -> None:
    """What `raise_exception` says reaches the caller."""
    with pytest.raises(ChatRefusedError, match="no role assistant"):
        render("{{ raise_exception('no role assistant') }}")


def test_name_of_a_participant_is_the_templates_to_write() -> None:
    """A name reaches the template, and is not defined where none was given."""
    template = "{% for m in messages %}{{ m.name | default('-') }}{% endfor %}"
    turns = [
        {"role": "user", "content": "a", "name": "Ann"},
        {"role": "user", "content": "b"},
    ]
    assert render_chat(template, turns, "", "") == "Ann-"


def test_template_that_writes_a_nul_is_refused() -> None:
    """The engine's library would end the prompt there."""
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
    """A template that fails costs its request, with the reason."""
    with pytest.raises(ChatRefusedError, match="template refuses"):
        render(template)


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ range(100001) | length }}"])
def test_template_that_calculates_badly_is_the_requests_error(template: str) -> None:
    """A division by zero, or a range that the sandbox refuses, is not the node's failure."""
    with pytest.raises(ChatRefusedError, match="template refuses"):
        render(template)


@pytest.mark.parametrize("template", ESCAPES)
def test_escape_from_the_sandbox_is_refused(template: str) -> None:
    """A template reaches no attribute beyond its values and changes nothing."""
    with pytest.raises(ChatRefusedError):
        render(template)
    assert [turn["role"] for turn in CHAT] == ["system", "user"]


@pytest.mark.parametrize("name", ["config", "request", "open", "__import__", "session", "g"])
def test_template_sees_nothing_of_the_node(name: str) -> None:
    """Names that web frameworks or Python give are not there."""
    assert render(f"{{{{ {name} is defined }}}}") == "False"
