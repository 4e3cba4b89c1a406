"""Write the reference page of the settings: `python -m deployments.settings_reference`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from node.agent.settings import AgentSettings
from shared.settings.declaration import CONFIG, Topic, declarations, default_in_words
from shared.settings.file import place_of

EXAMPLE: Final = Path(__file__).parent / "systemd" / "distributed-llm.toml"
_HEAD: Final = """# Settings

A setting has one name. `api-port`, for example, is

| where | as |
|---|---|
| command line | `--api-port=8081` |
| environment | `DISTRIBUTED_LLM_API_PORT=8081` |
| TOML file | `api-port = 8081` in `[node]` |

A flag wins over the environment, the environment over the file, the file over the default. What is
unknown or malformed is refused at the start in one line, with exit code 2. Each process logs at its
start the settings that are not defaults and where they came from:
`settings: node-id=node1 (file), api-port=8081 (flag)`.

Lists are separated by commas in flags and in the environment. Times are in seconds. Secrets are
never settings: a setting names the file that holds them.

## The file

`--config=FILE` or `DISTRIBUTED_LLM_CONFIG` names it; there is none by default. One file serves
every process of a machine:

- At the top, above all tables, are the settings that every process has.
- `[node]` and `[exporter]` hold what only the node or only the exporter has. A process skips the
  other's table; the agent reads both and passes each setting on to its process.

Lists are TOML lists, `buckets` is a table. Relative paths start from the working directory. The
file is read once, at the start. An example, with what most installations need
([`distributed-llm.toml`](../deployments/systemd/distributed-llm.toml)):

```toml
{example}```

## All settings

`agent --help`, `distributed-llm-node --help` and `distributed-llm-exporter --help` show them too.
The tables are written by `just docs`.
"""
_COLUMNS: Final = "| setting | in the file | default | meaning |\n|---|---|---|---|"


def write_reference() -> str:
    """Return the page."""
    return "\n".join([_HEAD.replace("{example}", EXAMPLE.read_text()), *_tables()])


def _tables() -> Iterator[str]:
    declared = declarations(AgentSettings)
    for topic in Topic:
        names = [name for name, each in declared.items() if each.topic is topic]
        if names:
            yield f"### {topic}\n\n{_COLUMNS}"
            yield from map(_row, names)
            yield ""


def _row(name: str) -> str:
    table, key = place_of(AgentSettings, name)
    where = "" if name == CONFIG else f"`[{table}]`" if table else "top"
    default = default_in_words(AgentSettings, name, on_this_machine=False) or "none"
    return f"| `{key}` | {where} | {default} | {declarations(AgentSettings)[name].text} |"


if __name__ == "__main__":
    sys.stdout.write(write_reference())
