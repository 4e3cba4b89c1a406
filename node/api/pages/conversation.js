// The conversation: what was asked and answered. Kept in the browser until it is cleared.

const NAME = "distributed-llm.conversation";
const VERSION = 1;

/**
 * Its exchanges are `{chat, model, question, text, reasoning, readings, tokens}`: `readings` as the
 * meter wrote them, `tokens` of prompt and answer, or null.
 */
export class Conversation {
  #exchanges = load();

  get exchanges() {
    return this.#exchanges;
  }

  /** The chat so far as the API's messages. */
  get messages() {
    return this.#exchanges
      .filter(({ chat }) => chat)
      .flatMap(({ question, text }) => [
        { role: "user", content: question },
        { role: "assistant", content: text },
      ]);
  }

  /** Add an exchange. Returns whether the browser keeps it. */
  add(exchange) {
    this.#exchanges.push(exchange);
    return save(this.#exchanges);
  }

  /** Keep an exchange that has not ended, for a page that is about to close. */
  keep(exchange) {
    save([...this.#exchanges, exchange]);
  }

  clear() {
    this.#exchanges = [];
    save([]);
  }
}

function load() {
  try {
    const { version, exchanges } = JSON.parse(localStorage.getItem(NAME)) ?? {};
    return version === VERSION ? exchanges : [];
  } catch {
    return []; // the browser forbids it, or somebody else wrote it
  }
}

/** Return false if the browser keeps nothing: it forbids it, or the conversation is too long. */
function save(exchanges) {
  try {
    localStorage.removeItem(NAME);
    if (exchanges.length) localStorage.setItem(NAME, JSON.stringify({ version: VERSION, exchanges }));
    return true;
  } catch {
    return false;
  }
}
