// Shows an answer with its question and readings, and reads it out.

import { copyButton } from "./copying.js";
import { Growing } from "./markdown.js";
import { Meter } from "./meter.js";

const REFRESH_MS = 200; // refresh of the readings; nobody can read faster ones
const ANNOUNCE_MS = 3000; // between two announcements, because each interrupts the listener

/** An answer in the conversation, under its question. */
export class Shown {
  #places;
  #exchange;
  #articles = [];
  #text; // where the answer is drawn
  #thoughts = null; // where its reasoning is drawn
  #readings = copy("readings-template");

  constructor(places, { chat, model, question }) {
    this.#places = places;
    this.#exchange = { chat, model, question, text: "", reasoning: "", readings: {}, tokens: null };
    if (chat) this.#article("You", "asked").append(question);
    const place = this.#article(model, "answer");
    if (!chat) place.append(given(question));
    this.#text = chat ? new Growing(place) : new Plain(place);
    place.classList.toggle("marked", chat);
    this.#last.append(this.#readings);
  }

  /** Show an exchange that is over. */
  static past(places, exchange) {
    const shown = new Shown(places, exchange);
    shown.draw(exchange);
    shown.read(exchange.readings, exchange.tokens);
    shown.finish();
  }

  /** The exchange as far as it is drawn. */
  get exchange() {
    return this.#exchange;
  }

  /** Draw pieces of the answer and of its reasoning. */
  draw({ text, reasoning }) {
    if (reasoning) this.#think(reasoning);
    if (text) this.#text.add(text);
    this.#exchange.text += text;
    this.#exchange.reasoning += reasoning;
    if (this.#exchange.text) this.#last.classList.remove("thinking");
  }

  /** Show the readings, and note the tokens of the whole exchange. */
  read(readings, tokens) {
    this.#exchange.readings = readings;
    this.#exchange.tokens = tokens;
    for (const [name, value] of Object.entries(readings)) {
      const place = this.#readings.querySelector(`[data-reading="${CSS.escape(name)}"]`);
      if (place) place.textContent = value;
    }
  }

  setBusy() {
    this.#last.setAttribute("aria-busy", "true");
  }

  /** Show that the answer is over. */
  finish() {
    this.#last.removeAttribute("aria-busy");
    this.#last.classList.remove("thinking");
    this.#last.classList.add("ended");
    for (const code of this.#last.querySelectorAll("pre")) {
      const block = document.createElement("div");
      block.className = "code";
      code.replaceWith(block);
      block.append(code, copyButton("this code", () => code.textContent));
    }
    this.#readings.after(copyButton("this answer", () => this.#exchange.text));
  }

  /** Remove the answer and its question. */
  remove() {
    for (const article of this.#articles) article.remove();
  }

  get #last() {
    return this.#articles.at(-1);
  }

  #article(who, kind) {
    const article = copy("turn-template");
    article.classList.add(kind);
    article.querySelector("h2").textContent = who;
    this.#places.log.append(article);
    this.#articles.push(article);
    return article.querySelector(".text");
  }

  #think(piece) {
    if (this.#thoughts === null) {
      const folded = copy("reasoning-template");
      this.#last.querySelector(".text").before(folded);
      this.#last.classList.add("thinking");
      this.#thoughts = new Plain(folded.querySelector(".text"));
    }
    this.#thoughts.add(piece);
  }
}

/** An answer that arrives: measured, drawn once in each frame, and read out. */
export class Arriving {
  #shown;
  #speaker;
  #waiting = nothing();
  #frame = 0;
  #timer;

  constructor(places, asked) {
    this.meter = new Meter(performance.now());
    this.#shown = new Shown(places, asked);
    this.#shown.setBusy();
    this.#speaker = new Speaker(places.announcer);
    this.#timer = setInterval(() => this.#read(), REFRESH_MS);
  }

  /** Whether nothing of the answer has arrived. */
  get isEmpty() {
    const { text, reasoning } = this.exchange;
    return text === "" && reasoning === "";
  }

  /** The exchange as far as it has arrived. */
  get exchange() {
    this.#draw();
    return this.#shown.exchange;
  }

  /** Add a piece of the answer, or of its reasoning; the next frame draws it. */
  add({ text = "", reasoning = "" }, at) {
    this.meter.piece(at);
    this.#waiting.text += text;
    this.#waiting.reasoning += reasoning;
    this.#frame ||= requestAnimationFrame(() => {
      this.#draw();
      this.#speaker.hear(this.#shown.exchange.text);
    });
  }

  /** Show that the answer is over, and why. */
  end(reason) {
    this.meter.ended(reason);
    this.#draw();
    this.#stop();
    this.#shown.finish();
    const { tokens, speed, end } = this.meter.readings(performance.now());
    this.#speaker.end(this.#shown.exchange.text, `Ended ${end}, ${tokens} tokens, ${speed}.`);
  }

  /** Remove the answer and its question. */
  remove() {
    this.#stop();
    this.#shown.remove();
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#shown.draw(this.#waiting);
    this.#waiting = nothing();
  }

  #read() {
    this.#shown.read(this.meter.readings(performance.now()), this.meter.total);
  }

  #stop() {
    clearInterval(this.#timer);
    cancelAnimationFrame(this.#frame);
    this.#read();
  }
}

/** Text that grows and is shown as it is. */
class Plain {
  #node = document.createTextNode("");

  constructor(place) {
    place.append(this.#node);
  }

  add(piece) {
    this.#node.appendData(piece);
  }
}

/** Reads an answer to a screen reader in whole sentences, a few at a time. */
class Speaker {
  #announcer;
  #said = 0;
  #next = performance.now() + ANNOUNCE_MS;

  constructor(announcer) {
    this.#announcer = announcer;
  }

  /** Update the text so far. */
  hear(text) {
    if (performance.now() < this.#next) return;
    const sentences = /^[^]*[.!?\n](?=\s)/.exec(text.slice(this.#said));
    if (!sentences) return;
    this.#say(sentences[0]);
    this.#said += sentences[0].length;
    this.#next = performance.now() + ANNOUNCE_MS;
  }

  /** Announce the rest and how the answer ended. */
  end(text, closing) {
    this.#say(`${text.slice(this.#said)} ${closing}`);
  }

  #say(text) {
    this.#announcer.textContent = text;
  }
}

const nothing = () => ({ text: "", reasoning: "" });

function copy(template) {
  return document.getElementById(template).content.cloneNode(true).firstElementChild;
}

function given(text) {
  const span = document.createElement("span");
  span.className = "given";
  span.textContent = text;
  return span;
}
