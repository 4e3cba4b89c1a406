// Shows an answer with its question and readings, and reads it out.

import { Meter } from "./meter.js";

const REFRESH_MS = 200; // refresh of the readings; nobody can read faster ones
const ANNOUNCE_MS = 3000; // between two announcements, because each interrupts the listener

/** An answer in the conversation, under its question. */
export class Shown {
  #articles = [];
  #streamed = document.createTextNode("");
  #readings = copy("readings-template");
  #log;
  #speaker;
  #waiting = "";
  #frame = 0;
  #timer;

  constructor({ log, announcer }, text, model, chat) {
    this.#log = log;
    this.#speaker = new Speaker(announcer);
    this.meter = new Meter(performance.now());
    this.text = "";
    if (chat) this.#article("You", "asked").append(text);
    const written = this.#article(model, "answer");
    if (!chat) written.append(given(text));
    written.append(this.#streamed);
    this.#last.append(this.#readings);
    this.#last.setAttribute("aria-busy", "true");
    this.#timer = setInterval(() => this.#read(), REFRESH_MS);
  }

  /** Add a piece of the answer; the next frame draws it. */
  add(piece, at) {
    this.meter.piece(at);
    this.text += piece;
    this.#waiting += piece;
    this.#frame ||= requestAnimationFrame(() => {
      this.#draw();
      this.#speaker.hear(this.text);
    });
  }

  /** Show that the answer is over, and why. */
  end(reason) {
    this.meter.ended(reason);
    this.#draw();
    this.#finish();
    const { tokens, speed, end } = this.meter.readings(performance.now());
    this.#speaker.end(this.text, `Ended ${end}, ${tokens} tokens, ${speed}.`);
  }

  /** Remove the answer and its question. */
  remove() {
    this.#finish();
    for (const article of this.#articles) article.remove();
  }

  get #last() {
    return this.#articles.at(-1);
  }

  #article(who, kind) {
    const article = copy("turn-template");
    article.classList.add(kind);
    article.querySelector("h2").textContent = who;
    this.#log.append(article);
    this.#articles.push(article);
    return article.querySelector(".text");
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#streamed.appendData(this.#waiting);
    this.#waiting = "";
  }

  #read() {
    for (const [name, value] of Object.entries(this.meter.readings(performance.now()))) {
      this.#readings.querySelector(`[data-reading=${name}]`).textContent = value;
    }
  }

  #finish() {
    clearInterval(this.#timer);
    cancelAnimationFrame(this.#frame);
    this.#read();
    this.#last.removeAttribute("aria-busy");
    this.#last.classList.add("ended");
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

function copy(template) {
  return document.getElementById(template).content.cloneNode(true).firstElementChild;
}

function given(text) {
  const span = document.createElement("span");
  span.className = "given";
  span.textContent = text;
  return span;
}
