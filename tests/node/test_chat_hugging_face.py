"""Templates behave as in Hugging Face's `apply_chat_template`.

The expected texts are what transformers writes for the same template and messages.
"""

import re
from typing import Final

import pytest

from node.engine.chat import ChatRefusedError, render_chat
from node.requests.request import Turn

CHAT: Final[list[Turn]] = [
    {"role": "user", "content": "a <b> & é"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "d"},
]
BODY: Final = "{% for m in messages %}{{ m.content }};{% endfor %}"
PLAIN: Final = "a <b> & é;c;d;"
OBJECT: Final = "{'b': [1, 'é'], 'a': none}"

ENVIRONMENT: Final = {
    "tools is none": ("{% if tools is not none %}TOOLS{% endif %}" + BODY, PLAIN),
    "tools is defined": ("{{ tools is defined }}", "True"),
    "tools is false": ("{% if tools %}TOOLS{% endif %}", ""),
    "documents is none": ("{% if documents is not none %}DOCUMENTS{% endif %}" + BODY, PLAIN),
    "documents is defined": ("{{ documents is defined }}", "True"),
    "what is not given is not defined": ("{{ enable_thinking is defined }}", "False"),
    "what is not defined is empty": ("[{{ nothing }}]", "[]"),
    "add_generation_prompt": ("{{ add_generation_prompt }}", "True"),
    "tokens": ("{{ bos_token }}{{ eos_token }}{{ pad_token }}", "<s></s><pad>"),
    "strftime_now": ("{{ strftime_now('%Y') | length }}{{ strftime_now('%%') }}", "4%"),
    "generation": ("{% generation %}x{{ messages[0].role }}{% endgeneration %}y", "xusery"),
    "generation in a loop": (
        "{% for m in messages %}{% generation %}{{ m.content }};{% endgeneration %}{% endfor %}",
        PLAIN,
    ),
    "generation with dashes": ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
    "generation is a scope": (
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        "21",
    ),
    "tojson": ("{{ messages[0].content | tojson }}", '"a <b> & é"'),
    "tojson of an object": (f"{{{{ {OBJECT} | tojson }}}}", '{"b": [1, "é"], "a": null}'),
    "tojson ensure_ascii": (
        "{{ messages[0].content | tojson(ensure_ascii=True) }}",
        '"a <b> & \\u00e9"',
    ),
    "tojson ensure_ascii by place": (
        "{{ 'é\U0001f98a' | tojson(True) }}",
        '"\\u00e9\\ud83e\\udd8a"',
    ),
    "tojson indent": ("{{ {'a': [1]} | tojson(indent=2) }}", '{\n  "a": [\n    1\n  ]\n}'),
    "tojson indent 0": ("{{ [1] | tojson(indent=0) }}", "[\n1\n]"),
    "tojson separators": ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
    "tojson sort_keys": (
        f"{{{{ {OBJECT} | tojson(sort_keys=True) }}}}",
        '{"a": null, "b": [1, "é"]}',
    ),
    "tojson of quotes": ('{{ "\'" | tojson }}', '"\'"'),
    "break": (
        "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "01",
    ),
    "continue": (
        "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
        "02",
    ),
    "trim_blocks": ("{% if true %}\na\n{% endif %}\nb", "a\nb"),
    "lstrip_blocks": ("  {% if true %}\na\n  {% endif %}\nb", "a\nb"),
    "last newline": ("a\n", "a"),
    "namespace": (
        "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = 1 %}{% endfor %}{{ n.x }}",
        "1",
    ),
    "macro": ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('a') }}", "[a]"),
    "no escapes for HTML": ("{{ messages[0].content }}", "a <b> & é"),
    "slices": (
        "{{ messages[1:] | length }}{{ messages[-1].role }}{{ messages[::-1][0].content }}",
        "2userd",
    ),
    "get": ("{{ messages[0].get('name', '-') }}", "-"),
    "no tool calls": ("{{ messages[1].tool_calls is defined }}", "False"),
    "string methods": (
        "{{ ' Ab '.strip().lower() }}{{ 'a|b'.split('|')[-1] }}{{ 'ab'.startswith('a') }}",
        "abbTrue",
    ),
    "loop variables": (
        "{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{% endfor %}",
        "0False1False2True",
    ),
    "in": ("{{ 'user' in messages[0].role }}{{ 'x' not in 'y' }}", "TrueTrue"),
    "joined by ~": ("{{ 1 ~ 'a' }}", "1a"),
    "items": (
        "{% for k, v in messages[1].items() %}{{ k }}={{ v }};{% endfor %}",
        "role=assistant;content=c;",
    ),
    "is string": ("{{ messages[0].content is string }}{{ tools is mapping }}", "TrueFalse"),
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_template_finds_what_it_finds_elsewhere(name: str) -> None:
    """Names, filters, statements and whitespace rules are Hugging Face's."""
    template, expected = ENVIRONMENT[name]
    special = {"pad_token": "<pad>"}
    assert render_chat(template, CHAT, "<s>", "</s>", special=special) == expected


REFUSED: Final = {
    "raise_exception": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "a statement of no environment": ("{% do messages %}", "do"),
    "generation without an end": ("{% generation %}x", "generation"),
    "JSON of what is not defined": ("{{ nothing | tojson }}", "Undefined"),
    "a text that fills the memory": ("{{ 'a' * (2 ** 62) }}", "messages"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_carries_the_templates_reason(name: str) -> None:
    """A template that fails in transformers fails here, and ends its request only."""
    template, why = REFUSED[name]
    with pytest.raises(ChatRefusedError, match=why):
        render_chat(template, CHAT)


CHATML: Final = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2: Final = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR: Final = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}"
)
LLAMA_3: Final = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MODELS: Final = {"ChatML": CHATML, "Llama 2": LLAMA_2, "Zephyr": ZEPHYR, "Llama 3": LLAMA_3}
ASKED: Final = {
    "ChatML": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "Llama 2": "<s>[INST] Hi [/INST]",
    "Zephyr": "<|user|>\nHi</s>\n<|assistant|>\n",
    "Llama 3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
}
CONTINUED: Final = {
    "ChatML": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nOnce upon ",
    "Llama 2": "<s>[INST] Hi [/INST] Once upon",
    "Zephyr": "<|user|>\nHi</s>\n<|assistant|>\nOnce upon ",
    "Llama 3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nOnce upon"
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_prompt_is_open_for_the_assistants_turn(model: str) -> None:
    """After the user's message the template writes the beginning of an answer."""
    turns = [{"role": "user", "content": "Hi"}]
    assert render_chat(MODELS[model], turns, "<s>", "</s>") == ASKED[model]


@pytest.mark.parametrize("model", MODELS)
def test_last_message_of_the_assistant_is_continued(model: str) -> None:
    """The prompt ends with the message, without spaces that the template itself trims."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once upon "}]
    assert render_chat(MODELS[model], turns, "<s>", "</s>") == CONTINUED[model]


def test_earlier_message_of_the_assistant_is_closed() -> None:
    """Only the last message is continued, even if an earlier one has the same text."""
    turns = [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": "x"}]
    prompt = render_chat(CHATML, turns)
    assert prompt == "<|im_start|>assistant\nx<|im_end|>\n<|im_start|>assistant\nx"


def test_empty_message_is_continued() -> None:
    """An empty last message opens the turn."""
    prompt = render_chat(CHATML, ({"role": "assistant", "content": ""},))
    assert prompt == "<|im_start|>assistant\n"


def test_template_that_leaves_the_last_message_out_is_refused() -> None:
    """A template that omits the last message cannot continue it."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once"}]
    with pytest.raises(ChatRefusedError, match="leaves out the last message"):
        render_chat("{{ messages[0].content }}", turns)


def test_time_is_the_local_one() -> None:
    """A template can format the local time in any way."""
    assert re.fullmatch(r"\d\d [A-Z]\w+ \d{4}", render_chat("{{ strftime_now('%d %B %Y') }}", CHAT))
