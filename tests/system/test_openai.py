"""The official `openai` client against a running node."""

import base64
import json
import math
import secrets
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
import xllamacpp
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from node.demo import MODEL_PATH
from tests.processes import Pair, Running, scrape, value, wait_for

STORY = "Once upon a time"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def client(shared_node: Running) -> Iterator[openai.OpenAI]:
    with client_of(shared_node) as opened:
        yield opened


def client_of(node: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=60)


def check_shape(kind: type[BaseModel], body: dict[str, Any]) -> None:
    """Check that a body has OpenAI's own type: known fields, right types, none invented."""
    parsed = kind.model_validate(body, strict=False)
    assert json.loads(parsed.model_dump_json(exclude_unset=True)) == body
    extra = [model for model in parts(parsed) if model.model_extra]
    assert not extra, f"not OpenAI's: {[model.model_extra for model in extra]}"


def parts(value_: object) -> Iterator[BaseModel]:
    if isinstance(value_, BaseModel):
        yield value_
        for name in type(value_).model_fields:
            yield from parts(getattr(value_, name))
    elif isinstance(value_, list):
        for item in value_:
            yield from parts(item)


def post(node: Running, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{node.url}{path}", json=body, timeout=60)


def events(node: Running, path: str, **body: Any) -> list[Any]:
    """Check a stream's form and return the content of its events."""
    response = post(node, path, stream=True, **body)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    *chunks, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_answers_are_of_openais_own_types(shared_node: Running) -> None:
    """Every response has OpenAI's own types."""
    whole = post(shared_node, "/v1/completions", prompt=STORY, max_tokens=4).json()
    check_shape(Completion, whole)
    chat = post(shared_node, "/v1/chat/completions", messages=HELLO, max_tokens=4).json()
    check_shape(ChatCompletion, chat)
    assert chat["choices"][0]["message"]["refusal"] is None
    options = {"include_usage": True}
    chunks = events(
        shared_node, "/v1/completions", prompt=STORY, max_tokens=4, stream_options=options
    )
    for chunk in chunks:
        for choice in chunk["choices"]:  # null in OpenAI's streams, which the type does not know
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check_shape(Completion, chunk)
    for chunk in events(
        shared_node, "/v1/chat/completions", messages=HELLO, max_tokens=4, stream_options=options
    ):
        check_shape(ChatCompletionChunk, chunk)
    named = httpx.get(f"{shared_node.url}/v1/models/demo").json()
    listed = httpx.get(f"{shared_node.url}/v1/models").json()
    assert listed["object"] == "list"
    for model in [named, *listed["data"]]:
        assert model.pop("max_model_len") == 512  # an extension that clients of vLLM read
        check_shape(Model, model)


def test_completion_streams_what_it_answers_whole(client: openai.OpenAI) -> None:
    """A greedy completion has the same text, end and usage, streamed and whole."""
    asked: Any = {"model": "demo", "prompt": STORY, "max_tokens": 24, "temperature": 0}
    whole = client.completions.create(**asked)
    chunks = list(
        client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    *texts, last, account = chunks
    assert "".join(chunk.choices[0].text for chunk in texts) == whole.choices[0].text
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert account.usage is not None
    assert whole.usage is not None
    assert account.choices == []
    assert account.usage.completion_tokens == whole.usage.completion_tokens == 24
    assert account.usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(chunk.usage is None for chunk in [*texts, last])


def test_chat_streams_what_it_answers_whole(client: openai.OpenAI) -> None:
    """A greedy chat is the same streamed and whole; its role comes first."""
    asked: Any = {"model": "demo", "messages": HELLO, "max_completion_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(chunk.usage is None for chunk in chunks)


def test_chat_helper_of_the_client_works(client: openai.OpenAI) -> None:
    """The client's strict streaming helper accepts a stream."""
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0}
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.create(**asked)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


def test_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    """A conversation continues with the answer's message as it came, parts included."""
    first = client.chat.completions.create(
        model="demo", messages=HELLO, max_tokens=12, temperature=0
    )
    turns: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        first.choices[0].message,
        {"role": "user", "content": "And you?"},
    ]
    asked: Any = {"model": "demo", "max_tokens": 8, "temperature": 0}
    again = client.chat.completions.create(messages=turns, **asked)
    dumped: Any = [*turns[:2], first.choices[0].message.model_dump(), turns[3]]
    assert client.chat.completions.create(messages=dumped, **asked).choices == again.choices


def test_last_message_of_the_assistant_is_continued(client: openai.OpenAI) -> None:
    """If part of an answer is sent back, the rest is generated and returned."""
    asked: Any = {"model": "demo", "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(messages=HELLO, **asked).choices[0].message.content
    assert whole is not None
    spaces = [at for at, character in enumerate(whole) if character == " "]
    for at in (spaces[0], spaces[len(spaces) // 2], spaces[-1]):
        begun: Any = [*HELLO, {"role": "assistant", "content": whole[:at]}]
        rest = client.chat.completions.create(messages=begun, **asked).choices[0].message.content
        assert rest is not None
        assert rest.startswith(whole[at:])
    empty: Any = [*HELLO, {"role": "assistant", "content": ""}]
    assert (
        client.chat.completions.create(messages=empty, **asked).choices[0].message.content == whole
    )


def test_fields_that_clients_send_as_their_defaults_are_taken(client: openai.OpenAI) -> None:
    """Fields at their defaults do not change the answer."""
    asked: Any = {"model": "demo", "messages": HELLO, "max_tokens": 8, "temperature": 0}
    plain = client.chat.completions.create(**asked)
    filled = client.chat.completions.create(
        **asked,
        n=1,
        logprobs=False,
        frequency_penalty=0,
        presence_penalty=0,
        logit_bias={},
        tools=[],
        response_format={"type": "text"},
        store=False,
        prompt_cache_key="conversation-7",
        extra_body={"min_p": 0, "mirostat": 0, "chat_template_kwargs": {}, "keep_alive": None},
        stop=None,
        stream=False,
    )
    assert filled.choices == plain.choices
    filled_text = client.completions.create(
        model="demo", prompt=STORY, max_tokens=4, n=1, best_of=1, echo=False, logit_bias={}
    )
    assert filled_text.choices[0].text


def test_stop_over_several_tokens_is_never_shown(client: openai.OpenAI) -> None:
    """An answer ends before each stop, streamed or not, for any tokens."""
    asked: Any = {"model": "demo", "prompt": STORY, "max_tokens": 60, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    for at in range(4, 40, 6):
        stop = text[at : at + 9]
        before = text[: text.index(stop)]
        whole = client.completions.create(**asked, stop=["nowhere to be seen", stop])
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == (before, "stop")
        shown = ""
        for chunk in client.completions.create(**asked, stop=stop, stream=True):
            shown += chunk.choices[0].text
            assert before.startswith(shown)
        assert shown == before


def test_multibyte_characters_arrive_whole(client: openai.OpenAI) -> None:
    """A character of several tokens is in one chunk."""
    asked: Any = {
        "model": "demo",
        "prompt": STORY,
        "max_tokens": 200,
        "temperature": 100,
        "top_p": 1,
    }
    extra = {"top_k": 10_000}  # nearly uniform sampling: some bytes in a row make a character
    torn = "\N{REPLACEMENT CHARACTER}"  # the replacement for bytes that make none
    for seed in range(100):
        whole = client.completions.create(**asked, seed=seed, extra_body=extra).choices[0].text
        if set(whole) - set(map(chr, range(128))) - {torn}:
            break
    else:
        pytest.fail("no draw had such a character")
    chunks = client.completions.create(**asked, seed=seed, extra_body=extra, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole


def test_sampling_settings_change_what_is_sampled(client: openai.OpenAI) -> None:
    """Each setting reaches the engine: the text differs, and repeats with a seed."""
    asked: Any = {"model": "demo", "prompt": STORY, "max_tokens": 40, "temperature": 1.5, "seed": 3}

    def text(**changed: Any) -> str:
        extra = {name: changed.pop(name) for name in list(changed) if name not in SDK_FIELDS}
        given = asked | changed
        answer: Completion = client.completions.create(**given, extra_body=extra)
        return answer.choices[0].text

    plain = text()
    assert text() == plain
    greedy = text(temperature=0)
    for changed in ({"seed": 4}, {"top_p": 0.05}, {"top_k": 2}, {"repetition_penalty": 2}):
        assert text(**changed) != plain
    assert text(top_k=1) == text(top_p=1e-6) == greedy
    assert text(repeat_penalty=1.9) == text(repetition_penalty=1.9)


SDK_FIELDS = ("seed", "top_p", "temperature")


def test_usage_tells_of_cached_tokens(client: openai.OpenAI) -> None:
    """A prefix sent again is not evaluated again, and the usage shows it."""
    prompt = f"Once upon a time {secrets.token_hex(8)} there was a little dog."
    asked: Any = {"model": "demo", "prompt": prompt, "max_tokens": 2}
    first, second = (client.completions.create(**asked).usage for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.prompt_tokens_details is not None
    assert second.prompt_tokens_details is not None
    assert first.prompt_tokens == second.prompt_tokens
    assert second.prompt_tokens_details.cached_tokens == second.prompt_tokens - 1
    assert (first.prompt_tokens_details.cached_tokens or 0) < second.prompt_tokens - 1
    assert second.total_tokens == second.prompt_tokens + second.completion_tokens


def test_embeddings_are_llama_cpps(client: openai.OpenAI) -> None:
    """An embedding equals llama.cpp's for the same text."""
    texts = [STORY, "Hello", "The dog was happy.", "The cat was happy.", "é€🙂"]
    answer = client.embeddings.create(model="demo", input=texts)
    assert [vector.index for vector in answer.data] == list(range(len(texts)))
    params = xllamacpp.CommonParams()
    params.model.path = str(MODEL_PATH)
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    params.embd_normalize = 2
    params.cpuparams.n_threads = 1
    reference = xllamacpp.Server(params).handle_embeddings({"input": texts})
    for ours, theirs in zip(answer.data, reference["data"], strict=True):
        assert dot(ours.embedding, theirs["embedding"]) > 0.999
        assert math.hypot(*ours.embedding) == pytest.approx(1, abs=1e-5)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 2 * len(texts)
    _, _, dog, cat, other = (vector.embedding for vector in answer.data)
    assert dot(dog, cat) > dot(dog, other) + 0.1


def test_embeddings_come_as_numbers_or_packed(shared_node: Running, client: openai.OpenAI) -> None:
    """Both encodings hold the same numbers; the client's default is base64."""
    numbers = post(shared_node, "/v1/embeddings", input=STORY).json()
    check_shape(CreateEmbeddingResponse, numbers)
    packed = post(shared_node, "/v1/embeddings", input=[STORY], encoding_format="base64").json()
    vector = numbers["data"][0]["embedding"]
    held = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack(f"<{len(vector)}f", held) == pytest.approx(vector, abs=1e-6)
    through = client.embeddings.create(model="demo", input=STORY).data[0].embedding
    assert through == pytest.approx(vector, abs=1e-6)
    chat = client.embeddings.create(model="demo", input=f"{STORY}, there").data[0].embedding
    again = client.embeddings.create(model="demo", input=STORY).data[0].embedding
    assert again == through != chat  # a cached prefix does not affect the next text


def test_text_too_long_for_a_vector_is_refused(client: openai.OpenAI) -> None:
    """A text that is too long is refused, with the other texts of its request."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="demo", input=["Hello", "word " * 3000])
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as narrower:
        client.embeddings.create(model="demo", input="Hello", dimensions=8)
    assert narrower.value.param == "dimensions"


def test_models_are_listed_and_described(client: openai.OpenAI) -> None:
    """A model has one description; an unknown one is OpenAI's 404."""
    (listed,) = client.models.list()
    assert client.models.retrieve("demo") == listed
    for unknown in ("gpt-4", "meta/llama"):
        with pytest.raises(openai.NotFoundError) as missing:
            client.models.retrieve(unknown)
        assert missing.value.code == "model_not_found"
        assert missing.value.param == "model"
        assert missing.value.type == "invalid_request_error"


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    """Each refusal raises the client's own exception, which names the parameter."""
    ask = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as refused:
        ask(model="demo", messages=HELLO, n=129)
    assert (refused.value.param, refused.value.type) == ("n", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="other", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        ask(model="demo", messages=[{"role": "user", "content": "word " * 3000}])
    assert long.value.code == "context_length_exceeded"
    part: Any = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
    with pytest.raises(openai.BadRequestError) as image:
        ask(model="demo", messages=[{"role": "user", "content": [part]}])
    assert image.value.param == "messages[0].content[0].type"
    with pytest.raises(openai.BadRequestError, match="NUL"):
        ask(model="demo", messages=[{"role": "user", "content": "a\0b"}])
    with pytest.raises(openai.BadRequestError) as tools:
        ask(model="demo", messages=HELLO, tools=[{"type": "function", "function": {"name": "f"}}])
    assert tools.value.param == "tools"
    with pytest.raises(openai.NotFoundError, match="no such path"):
        client.post("/nowhere", cast_to=object)
    with pytest.raises(openai.NotFoundError, match="use /v1/chat/completions"):
        client.post("/assistants", cast_to=object)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("HEAD", "/v1/completions", 405),
        ("PUT", "/v1/models/demo", 405),
        ("POST", "/openapi.json", 405),
        ("GET", "/v1/images", 404),
        ("HEAD", "/v1/images", 404),
        ("POST", "/v1/../etc/passwd", 404),
        ("GET", "/v1/models/x%00y", 404),
        ("HEAD", "/v1/models/demo", 200),
        ("HEAD", "/v1/models", 200),
    ],
)
def test_every_path_and_method_answers_in_the_apis_form(
    shared_node: Running, method: str, path: str, status: int
) -> None:
    """405 lists the allowed methods, HEAD has no body, and errors are OpenAI's objects."""
    response = httpx.request(method, f"{shared_node.url}{path}")
    assert response.status_code == status
    assert response.headers["x-request-id"]
    if method == "HEAD":
        assert response.content == b""
    elif status >= 400:
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert set(error) == {"message", "type", "param", "code"}
    assert ("allow" in response.headers) == (status == 405)


def test_body_that_is_too_large_is_refused_in_the_apis_form(shared_node: Running) -> None:
    """A body above the limit is a 413 with the limit."""
    response = httpx.post(f"{shared_node.url}/v1/completions", content=b" " * (8 * 2**20 + 1))
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_request_id_goes_in_and_out(client: openai.OpenAI) -> None:
    """A valid request id is returned; otherwise one is generated."""
    given = client.completions.with_raw_response.create(
        model="demo", prompt=STORY, max_tokens=1, extra_headers={"X-Request-ID": "order-66"}
    )
    assert given.headers["x-request-id"] == given.parse()._request_id == "order-66"
    for bad in ("", "x" * 65, "a b", "<b>"):
        made = client.models.with_raw_response.list(extra_headers={"X-Request-ID": bad})
        assert len(made.headers["x-request-id"]) == 32


def test_async_client_and_many_at_once(shared_node: Running) -> None:
    """Each concurrent client gets the answer that it would get alone."""
    asked: Any = {"model": "demo", "max_tokens": 16, "temperature": 0}
    prompts = [f"{name} went to the" for name in ("Lily", "Tom", "Ben", "Mia", "Sam", "Max")]
    with client_of(shared_node) as alone:
        expected = [
            alone.completions.create(prompt=prompt, **asked).choices[0].text for prompt in prompts
        ]

    async def run() -> list[str]:
        texts = [""] * len(prompts)

        async def follow(index: int, client: openai.AsyncOpenAI) -> None:
            stream = await client.completions.create(prompt=prompts[index], stream=True, **asked)
            async for chunk in stream:
                texts[index] += chunk.choices[0].text

        async with openai.AsyncOpenAI(
            base_url=f"{shared_node.url}/v1", api_key="none", max_retries=0
        ) as client:
            assert [model.id async for model in client.models.list()] == ["demo"]
            with pytest.raises(openai.BadRequestError):
                await client.completions.create(prompt=STORY, n=2, best_of=3, **asked)
            async with anyio.create_task_group() as tasks:
                for index in range(len(prompts)):
                    tasks.start_soon(follow, index, client)
        return texts

    assert anyio.run(run) == expected


@pytest.mark.slow
def test_cancelling_a_stream_frees_the_engine(pair: Pair, slow_model: Path) -> None:
    """A client that closes its stream is counted, and the next is served at once."""
    with pair.exporter() as exporter, pair.node(f"--model={slow_model}") as node:
        client = client_of(node)
        model = client.models.list().data[0].id
        asked: Any = {"model": model, "prompt": STORY, "temperature": 0}
        with client.completions.create(**asked, max_tokens=1500, stream=True) as stream:
            for _, _chunk in zip(range(3), stream, strict=False):
                pass
        assert client.completions.create(**asked, max_tokens=1).usage
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_total", status="ok") == 1)
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_in_flight") == 0)
        samples = scrape(exporter.url)
        assert value(samples, "inference_requests_total", status="cancelled") == 1
        assert (value(samples, "inference_tokens_generated_total") or 0) < 200


@pytest.mark.slow
def test_full_queue_is_the_clients_rate_limit(pair: Pair, slow_model: Path) -> None:
    """With a full queue the client raises RateLimitError with the time to retry."""
    with (
        pair.node(f"--model={slow_model}", "--queue=1") as node,
        client_of(node) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        asked: Any = {"model": client.models.list().data[0].id, "prompt": STORY, "temperature": 0}
        with client.completions.create(**asked, max_tokens=1500, stream=True) as running:
            next(iter(running))
            waiting = [
                pool.submit(lambda: client.completions.create(**asked, max_tokens=1))
                for _ in range(2)
            ]
            refused = wait_for(lambda: [w.exception() for w in waiting if w.done()])
        assert isinstance(refused[0], openai.RateLimitError)
        assert int(refused[0].response.headers["retry-after"]) >= 1
        assert refused[0].code == "queue_full"
        served = [w.result(timeout=60) for w in waiting if w.exception(timeout=60) is None]
        assert len(served) == 1


@pytest.mark.slow
def test_clients_take_turns(pair: Pair, slow_model: Path) -> None:
    """A client at another address does not wait for all requests of the first."""
    with pair.node(f"--model={slow_model}") as node, ThreadPoolExecutor(8) as pool:
        ended: list[str] = []

        def ask(address: str) -> None:
            with httpx.Client(transport=httpx.HTTPTransport(local_address=address)) as client:
                body = {"prompt": STORY, "max_tokens": 30, "temperature": 0}
                client.post(f"{node.url}/v1/completions", json=body, timeout=60)
            ended.append(address)

        for _ in range(6):
            pool.submit(ask, "127.0.0.1")
        wait_for(lambda: ended)  # then the other five have come
        pool.submit(ask, "127.0.0.2")
        pool.shutdown(wait=True)
        assert len(ended) == 7
        assert ended.index("127.0.0.2") < 5


def test_key_is_asked_for_in_the_clients_words(pair: Pair, tmp_path: Path) -> None:
    """A wrong key raises AuthenticationError, with the request's id."""
    keys = tmp_path / "keys"
    keys.write_text("sk-right\n")
    with pair.node(f"--api-key-file={keys}") as node:
        client = client_of(node)
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.retrieve("demo", extra_headers={"X-Request-ID": "order-66"})
        assert refused.value.code == "invalid_api_key"
        assert refused.value.request_id == "order-66"
        assert client.with_options(api_key="sk-right").models.retrieve("demo").id == "demo"
