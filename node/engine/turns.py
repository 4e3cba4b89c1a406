"""The turns of a chat as OpenAI's API has them."""

import json

from node.requests.request import Turn


def with_json_arguments(turn: Turn) -> Turn:
    """Return a turn with the arguments of its calls as JSON text."""
    if "tool_calls" not in turn:
        return turn
    calls = [
        call | {"function": call["function"] | {"arguments": _json(call["function"]["arguments"])}}
        for call in turn["tool_calls"]
    ]
    return turn | {"tool_calls": calls}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
