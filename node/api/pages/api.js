// Calls the node's API like any client, and turns errors into sentences.

import { events } from "./events.js";

/** A request ended without its complete answer; the message is a sentence for a person. */
export class AnswerError extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const BROKEN = "The connection broke before the answer was whole.";
const UNREACHABLE = "The node cannot be reached. Is it running?";
const LAST = "[DONE]";

/** The API of the node that served this page; addresses are relative, for a proxy's prefix. */
export class Api {
  #key = "";

  /** Use this key for all further requests. */
  useKey(key) {
    this.#key = key;
  }

  /** Return the models by id, each as the length of its context in tokens, or null. */
  async models(signal) {
    const response = await this.#ask("v1/models", { signal });
    const listed = await response.json();
    return new Map(listed.data.map((model) => [model.id, model.max_model_len ?? null]));
  }

  /**
   * Stream an answer: yields `{chunk, at}`, a chunk of the API and when it was read (milliseconds
   * of `performance.now`). Ends after the last chunk; throws AnswerError if it does not arrive.
   */
  async *stream(path, body, signal) {
    const response = await this.#ask(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    for await (const { data, at } of events(response.body, (error) => translated(error, BROKEN))) {
      if (data === LAST) return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new AnswerError(`The answer broke off: ${sentence(chunk.error.message)}`);
      yield { chunk, at };
    }
    throw new AnswerError(BROKEN);
  }

  async #ask(path, { headers = {}, ...options }) {
    if (this.#key) headers = { ...headers, Authorization: `Bearer ${this.#key}` };
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      throw translated(error, UNREACHABLE);
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

/** Return a network failure as an AnswerError; a stop by the user stays as it is. */
function translated(error, message) {
  return error.name === "AbortError" ? error : new AnswerError(message);
}

async function refusal(response) {
  const { status } = response;
  const told = await response.json().then(
    (body) => body.error ?? {},
    () => ({}), // a proxy's page, not the node's answer
  );
  const reason = told.message ?? `status ${status}`;
  const message = words(status, sentence(reason), response.headers.get("Retry-After"));
  return new AnswerError(message, { status, code: told.code });
}

function words(status, reason, retryAfter) {
  const opening =
    status === 429 ? "The node is busy" :
    status === 503 ? "The node is not ready" :
    status >= 500 ? "The node failed" :
    "The node refused this";
  const again = Number(retryAfter) > 0 ? ` Try again in ${Number(retryAfter)} s.` : "";
  return `${opening}: ${reason}${again}`;
}

function sentence(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
