"""The OpenAPI description is valid, and requests and responses match it."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from node.api.http import openapi
from node.api.http.app import build_app
from tests.processes import Running

DESCRIBED = openapi.describe()
POSTS = [path for path, item in DESCRIBED["paths"].items() if "post" in item]
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)  # JSON has no others
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Once"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/embeddings": {"input": ["Hello", "Once"]},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 3},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/rerank": {"query": "Hello", "documents": ["Once", {"text": "Hello"}]},
    "/tokenize": {"prompt": "Once"},
    "/detokenize": {"tokens": [1]},
    "/apply-template": {"messages": [{"role": "user", "content": "Hello"}]},
}

LIMITS: dict[str, str] = {
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
"""The field that limits an answer's tokens, on the paths that write text."""


@pytest.fixture(scope="module")
def client(shared_node: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared_node.url, timeout=30) as opened:
        yield opened


def test_every_path_is_described() -> None:
    """The description has each path of the API; the page and the description itself need none."""
    unasked: Any = None  # only requests use the arguments
    app = build_app(unasked, unasked, unasked, "demo")
    paths = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}
    assert paths - {"/", "/pages/{name}", "/openapi.json"} == DESCRIBED["paths"].keys()


def body_schema(path: str) -> dict[str, Any]:
    content = DESCRIBED["paths"][path]["post"]["requestBody"]["content"]
    found: dict[str, Any] = content["application/json"]["schema"]
    return found


def validate(schema: dict[str, Any], body: object) -> None:
    whole = schema | {"components": DESCRIBED["components"]}
    jsonschema.Draft202012Validator(whole).validate(body)


def check_response(response: httpx.Response, path: str, method: str = "post") -> None:
    """Check a response against its description."""
    answers = DESCRIBED["paths"][path][method]["responses"]
    key = "200" if response.status_code == 200 else f"{response.status_code // 100}XX"
    content = answers[key]["content"]
    kind = response.headers["content-type"].partition(";")[0]
    if kind == "text/plain":
        assert content.keys() == {kind}
    elif kind == "application/json":
        validate(content[kind]["schema"], response.json())
    else:
        assert kind == "text/event-stream"
        assert kind in content
        *chunks, _ = response.text.split("\n\n")
        for chunk in chunks:
            if chunk == "data: [DONE]":
                continue
            data = json.loads(chunk.partition("data: ")[2])
            if "error" not in data:
                validate(content[kind]["schema"]["x-event-data"], data)


def drawn(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that a schema of this project allows."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return st.deferred(lambda: drawn(DESCRIBED["components"]["schemas"][name]))
    if not schema.keys() - {"default", "description"}:
        return JSON
    if "anyOf" in schema:
        return st.one_of([drawn(choice) for choice in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return DRAWN[schema["type"]](schema)


def drawn_array(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    items = drawn(schema["items"]) if "items" in schema else JSON
    most = min(schema.get("maxItems", 3), 3)
    return st.lists(items, min_size=schema.get("minItems", 0), max_size=most)


def drawn_string(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda text: len(text) < 99)
    most = min(schema.get("maxLength", 30), 30)
    return st.text(min_size=schema.get("minLength", 0), max_size=most)


def drawn_number(schema: dict[str, Any]) -> st.SearchStrategy[float]:
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    open_below = "exclusiveMinimum" in schema
    return st.floats(least, schema.get("maximum"), exclude_min=open_below, width=32)


def drawn_object(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    fields = {name: drawn(field) for name, field in schema.get("properties", {}).items()}
    required = set(schema.get("required", ()))
    needed = {name: field for name, field in fields.items() if name in required}
    return st.fixed_dictionaries(needed, optional={n: fields[n] for n in set(fields) - required})


DRAWN: dict[str, Callable[[dict[str, Any]], st.SearchStrategy[Any]]] = {
    "object": drawn_object,
    "array": drawn_array,
    "string": drawn_string,
    "integer": lambda schema: st.integers(schema.get("minimum"), schema.get("maximum")),
    "number": drawn_number,
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
}


def test_description_is_one() -> None:
    """The description is valid OpenAPI, and every reference resolves."""
    OpenAPIV31SpecValidator(DESCRIBED).validate()
    for name, schema in DESCRIBED["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert f'"#/components/schemas/{name}"' in json.dumps(DESCRIBED)


def test_description_is_served(client: httpx.Client) -> None:
    """The node serves the tested description, which has each route of the API."""
    assert client.get("/openapi.json").json() == json.loads(json.dumps(DESCRIBED))
    for path, item in DESCRIBED["paths"].items():
        for method in item:
            response = client.request(method, path.replace("{model_id}", "demo"), json={})
            assert response.status_code not in (404, 405), path
            check_response(response, path, method)


@pytest.mark.parametrize("path", POSTS)
def test_answers_are_as_described(client: httpx.Client, path: str) -> None:
    """Whole, streamed and refused responses match the description."""
    asked = EXAMPLES[path]
    limit = {LIMITS[path]: 4} if path in LIMITS else {}
    validate(body_schema(path), asked | limit)
    answered = client.post(path, json=asked | limit)
    assert answered.status_code == (400 if path == "/v1/rerank" else 200)  # the demo model writes
    check_response(answered, path)
    if limit:
        check_response(client.post(path, json=asked | limit | {"stream": True}), path)
    for wrong in ({"model": "other"}, {"model": 5}, {"nothing": 1}):
        check_response(client.post(path, json=asked | wrong), path)
    check_response(client.post(path, content=b"{"), path)


@pytest.mark.parametrize("path", POSTS)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_allowed_is_answered_or_refused(
    client: httpx.Client, path: str, data: st.DataObject
) -> None:
    """Requests drawn from the description are answered or refused with a reason, quickly."""
    body = data.draw(drawn(body_schema(path)))
    validate(body_schema(path), body)
    if body.get("model"):
        body["model"] = data.draw(st.sampled_from(["demo", body["model"]]))
    if (limit := LIMITS.get(path)) is not None:
        body[limit] = min(body.get(limit) or 8, 8)
    if body.get("n"):
        body["n"] = min(body["n"], 2)
    response = client.post(path, content=json.dumps(body).encode())
    assert response.status_code < 500, response.text
    check_response(response, path)


@pytest.mark.parametrize("path", POSTS)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_not_allowed_is_refused(
    client: httpx.Client, path: str, data: st.DataObject
) -> None:
    """A request with one field outside the description is refused with its name."""
    fields = DESCRIBED["components"]["schemas"][body_schema(path)["$ref"].rpartition("/")[2]]
    name = data.draw(st.sampled_from(sorted(fields["properties"])))
    body = EXAMPLES[path] | {name: data.draw(JSON)}
    if jsonschema.Draft202012Validator(
        body_schema(path) | {"components": DESCRIBED["components"]}
    ).is_valid(body):
        return
    response = client.post(path, content=json.dumps(body).encode())
    assert response.status_code == 400, response.text
    check_response(response, path)
    if not path.startswith("/v1/messages"):  # Anthropic's form names fields in the message only
        assert response.json()["error"]["param"]


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(POSTS),
    body=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(["application/json", "text/plain", "multipart/form-data", ""]),
)
def test_any_bytes_are_refused(client: httpx.Client, path: str, body: bytes, kind: str) -> None:
    """Any bytes are at most refused."""
    response = client.post(path, content=body, headers={"content-type": kind})
    assert response.status_code == 400
    check_response(response, path)
