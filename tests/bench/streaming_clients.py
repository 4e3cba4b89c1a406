"""Reads several streams at once and prints what arrived.

Arguments: host, port, number of streams, tokens of each.
"""

import json
import selectors
import socket
import sys
import time
from typing import Final

_READ_BYTES: Final = 64 * 1024
_PIECE: Final = b'"content":"'


def main(host: str, port: int, streams: int, tokens: int) -> None:
    """Ask for all streams, read them to their ends, and print what came and how fast."""
    request = _request(host, tokens)
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(streams):
            client = socket.create_connection((host, port))
            client.sendall(request)
            selector.register(client, selectors.EVENT_READ, client)
        pieces = reads = 0
        while selector.get_map():
            for key, _ in selector.select():
                received = key.data.recv(_READ_BYTES)
                pieces += received.count(_PIECE)
                reads += 1
                if not received:
                    selector.unregister(key.data)
                    key.data.close()
    seconds = time.perf_counter() - began
    print(json.dumps({"tokens": pieces - streams, "reads": reads, "seconds": seconds}))


def _request(host: str, tokens: int) -> bytes:
    messages = [{"role": "user", "content": "x"}]
    wanted = {"messages": messages, "stream": True, "max_tokens": tokens, "ignore_eos": True}
    body = json.dumps(wanted).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
