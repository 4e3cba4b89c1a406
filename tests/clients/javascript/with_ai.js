// Vercel's AI SDK, with its providers for OpenAI and for compatible servers.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  embedMany,
  generateObject,
  generateText,
  Output,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from "ai";

import { API, EMBEDDER, MODEL, QUESTION, REAL, Weather } from "./asked.js";

const openai = createOpenAI({ baseURL: API, apiKey: "none" });
const compatible = createOpenAICompatible({
  name: "node",
  baseURL: API,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const models = {
  "openai, responses": openai.responses(MODEL),
  "openai, chats": openai.chat(MODEL),
  compatible: compatible(MODEL),
};
const onError = ({ error }) => {
  throw error;
};

for (const [name, model] of Object.entries(models)) {
  const asked = { model, prompt: QUESTION, maxRetries: 0, temperature: 0 };

  test(`${name}: a text is streamed as it is answered whole`, async () => {
    const short = { ...asked, maxOutputTokens: 16 };
    const whole = await generateText(short);
    const stream = streamText({ ...short, onError });
    await stream.consumeStream();
    assert.equal(await stream.text, whole.text);
    assert.equal((await stream.usage).outputTokens, 16);
    assert.equal(await stream.finishReason, "length");
  });

  test(`${name}: an object is answered and streamed`, async () => {
    const described = { ...asked, schema: Weather };
    const stream = streamObject({ ...described, onError });
    let last;
    for await (const partial of stream.partialObjectStream) last = partial;
    assert.deepEqual(last, (await generateObject(described)).object);
    const output = Output.object({ schema: Weather });
    Weather.parse((await generateText({ ...asked, output })).output);
  });

  for (const toolChoice of ["required", { type: "tool", toolName: "getWeather" }]) {
    test(`${name}: a tool is called: ${JSON.stringify(toolChoice)}`, async () => {
      const getWeather = tool({ inputSchema: Weather, execute: async () => "sunny" });
      const calling = { ...asked, tools: { getWeather }, toolChoice, maxOutputTokens: 300 };
      const whole = await generateText({ ...calling, stopWhen: stepCountIs(2) });
      assert.equal(whole.steps.length, 2);
      const stream = streamText({ ...calling, onError });
      await stream.consumeStream();
      const [{ input }] = await stream.toolCalls;
      assert.deepEqual(input, whole.steps[0].toolCalls[0].input);
      assert.equal((await stream.toolResults)[0].output, "sunny");
    });
  }
}

test("a completion is answered", async () => {
  for (const model of [openai.completion(REAL), compatible.completionModel(REAL)]) {
    assert.ok((await generateText({ model, prompt: "Once", maxOutputTokens: 8 })).text);
  }
});

test("texts have vectors", async () => {
  for (const model of [openai.embedding(EMBEDDER), compatible.embeddingModel(EMBEDDER)]) {
    const { embeddings } = await embedMany({ model, values: ["hello", "world"] });
    assert.equal(embeddings.length, 2);
  }
});
