// Reads /status/stream, and connects again when it breaks.

import { events } from "./events.js";

const RETRY_MS = 2000;
const SILENCE_MS = 10_000; // the exporter sends an event a second

/** The exporter requires credentials, or does not know those that were given. */
export class UnauthorizedError extends Error {}

/** The status of the exporter that served this page; the address is relative, for a proxy's prefix. */
export class Source {
  #token = "";

  /** Use this bearer token from now on. */
  useToken(token) {
    this.#token = token;
  }

  get hasToken() {
    return this.#token !== "";
  }

  /**
   * Call `show` with each snapshot and `lost` with the reason each time the exporter is not reached.
   * Ends only by an UnauthorizedError.
   */
  async follow({ show, lost }) {
    for (;;) {
      try {
        await this.#read(show);
        lost("The stream ended.");
      } catch (error) {
        if (error instanceof UnauthorizedError) throw error;
        lost(error.message);
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  async #read(show) {
    const controller = new AbortController();
    let timer = 0;
    const expect = () => {
      clearTimeout(timer);
      timer = setTimeout(() => controller.abort(), SILENCE_MS);
    };
    expect();
    try {
      const headers = this.#token ? { Authorization: `Bearer ${this.#token}` } : {};
      const response = await fetch("status/stream", { headers, signal: controller.signal, cache: "no-store" });
      if (response.status === 401) throw new UnauthorizedError();
      if (!response.ok) throw new Error(`The exporter answers ${response.status}.`);
      for await (const { data } of events(response.body)) {
        expect();
        show(JSON.parse(data));
      }
    } catch (error) {
      // Browsers word a broken connection differently; a person needs one sentence.
      if (["AbortError", "TypeError"].includes(error.name)) throw new Error("The exporter cannot be reached.");
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }
}
