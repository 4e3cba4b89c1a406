// OpenAI's client for Node.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import { API, EMBEDDER, MODEL, QUESTION, REAL, Weather } from "./asked.js";

const client = new OpenAI({ baseURL: API, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const parameters = z.toJSONSchema(Weather);
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
const named = { type: "function", function: { name: "get_weather" } };

test("a chat is streamed as it is answered whole", async () => {
  const asked = { model: MODEL, messages, max_tokens: 12, temperature: 0 };
  const whole = await client.chat.completions.create(asked);
  const options = { stream_options: { include_usage: true } };
  const stream = client.chat.completions.stream({ ...asked, ...options });
  assert.equal(await stream.finalContent(), whole.choices[0].message.content);
  assert.equal((await stream.totalUsage()).completion_tokens, 12);
});

test("a structured answer is parsed, and can be sent back", async () => {
  const response_format = zodResponseFormat(Weather, "weather");
  const asked = { model: MODEL, messages, max_tokens: 200, response_format };
  const { message } = (await client.chat.completions.parse(asked)).choices[0];
  Weather.parse(message.parsed);
  const history = [...messages, message, ...messages];
  assert.ok(await client.chat.completions.create({ ...asked, messages: history }));
});

for (const tool_choice of ["required", named]) {
  test(`the result of a called tool is answered: ${JSON.stringify(tool_choice)}`, async () => {
    const asked = { model: MODEL, tools, max_tokens: 300 };
    const stream = client.chat.completions.stream({ ...asked, messages, tool_choice });
    const message = await stream.finalMessage();
    Weather.parse(JSON.parse(message.tool_calls[0].function.arguments));
    const results = message.tool_calls.map(({ id }) => ({
      role: "tool",
      tool_call_id: id,
      content: "sunny",
    }));
    const history = [...messages, message, ...results];
    const next = { ...asked, messages: history, tool_choice: "none" };
    const answer = await client.chat.completions.create(next);
    assert.ok(answer.choices[0].message.content);
  });
}

test("tools are run", async () => {
  const calls = [];
  const run = (called) => {
    calls.push(called);
    return "sunny";
  };
  const runnable = { name: "get_weather", parameters, parse: JSON.parse, function: run };
  const asked = { model: MODEL, messages, max_tokens: 100, tool_choice: named };
  await client.chat.completions
    .runTools(
      { ...asked, tools: [{ type: "function", function: runnable }] },
      { maxChatCompletions: 2 },
    )
    .done();
  assert.ok(calls.length);
  calls.forEach((called) => Weather.parse(called));
});

test("a response is streamed as it is answered whole", async () => {
  const asked = { model: MODEL, input: QUESTION, max_output_tokens: 12, temperature: 0 };
  const whole = await client.responses.create(asked);
  let text = "";
  for await (const event of client.responses.stream(asked)) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, whole.output_text);
});

test("a response is parsed, calls a function, and can be sent back", async () => {
  const format = zodTextFormat(Weather, "weather");
  const asked = { model: MODEL, input: QUESTION };
  const parsed = await client.responses.parse({ ...asked, text: { format } });
  Weather.parse(parsed.output_parsed);
  const functions = [{ type: "function", name: "get_weather", parameters, strict: true }];
  const input = [{ role: "user", content: QUESTION }, ...parsed.output];
  input.push({ role: "user", content: QUESTION });
  const calling = { model: MODEL, input, tools: functions, tool_choice: "required" };
  const called = await client.responses.parse(calling);
  const [call] = called.output;
  Weather.parse(JSON.parse(call.arguments));
  const result = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
  const history = [...input, call, result];
  const next = { ...calling, input: history, tool_choice: "none", max_output_tokens: 8 };
  assert.ok((await client.responses.create(next)).output_text);
});

test("a completion is streamed as it is answered whole", async () => {
  const asked = { model: REAL, prompt: "Once upon a time", max_tokens: 8, temperature: 0 };
  const whole = await client.completions.create(asked);
  let text = "";
  for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
    text += chunk.choices[0].text;
  }
  assert.equal(text, whole.choices[0].text);
});

test("texts have vectors", async () => {
  const asked = { model: EMBEDDER, input: ["hello", "world"] };
  const { data } = await client.embeddings.create(asked);
  assert.equal(data.length, 2);
  assert.notDeepEqual(data[0].embedding, data[1].embedding);
});

test("errors have their classes", async () => {
  const chat = (changes) =>
    client.chat.completions.create({ model: MODEL, messages, ...changes });
  await assert.rejects(chat({ model: "absent" }), OpenAI.NotFoundError);
  await assert.rejects(chat({ temperature: -1 }), OpenAI.BadRequestError);
});
