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

A setting has the same name everywhere, for example `api-port`:

| where | how |
|---|---|
| command line | `--api-port=8081` |
| environment | `DISTRIBUTED_LLM_API_PORT=8081` |
| TOML file | `api-port = 8081` in `[node]` |

Flags override the environment, the environment overrides the file, and the file overrides the
defaults. An unknown or malformed setting is refused at the start in one line, with exit code 2.
Each process logs at its start the settings that are not defaults, with their sources:
`settings: node-id=node1 (file), api-port=8081 (flag)`.

Lists are separated by commas in flags and in the environment. Times are in seconds. Secrets are
never settings: a setting names the file that holds them.

## The file

`--config=FILE` or `DISTRIBUTED_LLM_CONFIG` names the file; there is none by default. One file
serves every process of a machine:

- The settings of all processes are at the top, above all tables.
- The settings of only the node or only the exporter are in `[node]` and `[exporter]`. A process
  ignores the other's table; the agent reads both and passes each setting to its process.

Lists are TOML lists, `buckets` is a table. Relative paths start from the working directory. The
file is read once, at the start. This example has the settings that most installations need
([`distributed-llm.toml`](../deployments/systemd/distributed-llm.toml)):

```toml
{example}```

## All settings

`agent --help`, `distributed-llm-node --help` and `distributed-llm-exporter --help` show them, too.
`just docs` generates the tables.
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
