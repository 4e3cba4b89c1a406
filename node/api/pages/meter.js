// Measures an answer while it arrives. Knows neither the page nor the network.

const ENDS = {
  stop: "by itself",
  length: "at the token limit",
  stopped: "by you",
  broken: "broken off",
};
/** Browsers round their clock, so a speed over a shorter time would mostly be rounding error. */
const SHORTEST_MS = 5;

export class Meter {
  #sent;
  #first = null;
  #last = null;
  #pieces = 0;
  #piecesAtFirst = 0;
  #tokens = null;
  #end = null;
  total = null; // tokens of prompt and answer, as the node counted them

  /** @param sent When the request was sent, in milliseconds; all times use one clock. */
  constructor(sent) {
    this.#sent = sent;
  }

  /** Record a piece of text and when it was read. */
  piece(at) {
    this.#first ??= at;
    this.#last = at;
    this.#pieces += 1;
    if (at === this.#first) this.#piecesAtFirst += 1;
  }

  /** Record the node's own token counts. */
  usage({ completion_tokens, total_tokens }) {
    this.#tokens = completion_tokens;
    this.total = total_tokens;
  }

  /** Record why the answer ended: the API's finish reason, "stopped" or "broken". */
  ended(reason) {
    this.#end = reason;
  }

  /** Return the readings as text; a dash for unknown values, ≈ for what is counted here. */
  readings(now) {
    const count = this.#tokens ?? this.#pieces;
    const about = this.#tokens === null ? "≈ " : "";
    const speed = this.#speed(count);
    return {
      first: this.#firstToken(now),
      speed: speed === null ? "–" : `${about}${rounded(speed)} tokens/s`,
      tokens: count ? `${about}${count}` : "–",
      end: this.#end === null ? "–" : (ENDS[this.#end] ?? this.#end),
    };
  }

  #firstToken(now) {
    if (this.#first !== null) return duration(this.#first - this.#sent);
    return this.#end === null ? `${duration(now - this.#sent)} …` : "–";
  }

  // The pieces of the first read were generated before the speed's time began.
  #speed(count) {
    const elapsed = this.#last - this.#first;
    if (this.#first === null || elapsed < SHORTEST_MS) return null;
    return ((count - this.#piecesAtFirst) / elapsed) * 1000;
  }
}

function duration(milliseconds) {
  if (milliseconds < 1000) return `${rounded(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(2)} s`;
}

function rounded(number) {
  return number < 10 ? number.toFixed(1) : String(Math.round(number));
}
