// The page: sends the input to the node; shows, measures and announces the streamed answer.

import { Arriving, Shown } from "./answer.js";
import { AnswerError, Api } from "./api.js";
import { Conversation } from "./conversation.js";

const CONTEXT_HIGH = 0.85; // the part of a context above which its meter warns
const NEAR_END_PX = 80; // a user who scrolled further up is reading, so the page must not move

// Codes of the API's errors.
const NO_TEMPLATE = "no_chat_template";
const TOO_LONG = "context_length_exceeded";
const UNKNOWN_MODEL = "model_not_found";

const part = (id) => document.getElementById(id);
const composer = part("composer");
const prompt = part("prompt");
const places = { log: part("log"), announcer: part("announcer") };
const api = new Api();
const conversation = new Conversation();
let contexts = new Map(); // the length of each model's context in tokens
let running = null; // the AbortController of the running answer
let arriving = null; // this answer
let following = false; // whether the window follows the end of the answer
let lastScroll = 0;

// ---- sending and stopping

async function send() {
  if (running) return;
  running = new AbortController();
  showRunning(true);
  say("");
  const text = prompt.value;
  prompt.value = "";
  try {
    if (!part("model").value) await loadModels(running.signal);
    await answer(text, running.signal);
  } catch (error) {
    if (prompt.value === "") prompt.value = text;
    fail(error);
  }
  running = arriving = null;
  showRunning(false);
  showContext();
}

/** Ask and show the answer. Throws if there is none, and then removes the question too. */
async function answer(question, signal) {
  const chat = mode() === "chat";
  const asked = chat ? chatRequest(question) : completionRequest(question);
  arriving = new Arriving(places, { chat, model: part("model").value, question });
  part("welcome").hidden = true;
  following = true;
  try {
    await follow(arriving, asked, signal);
  } catch (error) {
    if (arriving.isEmpty) {
      arriving.remove();
      part("welcome").hidden = part("log").childElementCount > 0;
      if (error.code === NO_TEMPLATE && chat) return withoutTemplate(question, signal);
      throw error;
    }
    arriving.end(error.name === "AbortError" ? "stopped" : "broken");
    if (error instanceof AnswerError) say(error.message);
    else if (error.name !== "AbortError") throw error;
  }
  if (!conversation.add(arriving.exchange)) {
    say("This browser does not keep the conversation: a reload loses it.", "note");
  }
}

async function follow(shown, { path, body }, signal) {
  let reason = "stop";
  for await (const { chunk, at } of api.stream(path, body, signal)) {
    const choice = chunk.choices[0];
    const text = choice?.delta?.content ?? choice?.text;
    const reasoning = choice?.delta?.reasoning_content;
    if (text || reasoning) shown.add({ text, reasoning }, at);
    if (choice?.finish_reason) reason = choice.finish_reason;
    if (chunk.usage) shown.meter.usage(chunk.usage);
  }
  shown.end(reason);
}

async function withoutTemplate(text, signal) {
  composer.elements.mode.value = "completion";
  showMode();
  say("This model has no chat template: it continues your text instead.", "note");
  await answer(text, signal);
}

function chatRequest(text) {
  const messages = [...conversation.messages, { role: "user", content: text }];
  return { path: "v1/chat/completions", body: { ...settings(), messages } };
}

function completionRequest(text) {
  return { path: "v1/completions", body: { ...settings(), prompt: text } };
}

function settings() {
  const chosen = { model: part("model").value };
  for (const name of ["temperature", "max_tokens", "seed"]) {
    const { value } = composer.elements[name];
    if (value !== "") chosen[name] = Number(value);
  }
  return chosen;
}

const mode = () => composer.elements.mode.value;

// ---- the window

function isAtEnd() {
  const { scrollHeight, scrollTop, clientHeight } = document.documentElement;
  return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
}

/** Follow from the end until the user scrolls up; growing text alone does not stop it. */
function noteScroll() {
  const up = scrollY < lastScroll;
  lastScroll = scrollY;
  following = isAtEnd() || (following && !up);
}

function followGrowth() {
  if (following) scrollTo(0, document.documentElement.scrollHeight);
}

// ---- models, key, messages

async function loadModels(signal) {
  const select = part("model");
  const chosen = select.value || conversation.exchanges.at(-1)?.model;
  contexts = await api.models(signal);
  const ids = [...contexts.keys()];
  select.replaceChildren(...ids.map((id) => new Option(id, id, false, id === chosen)));
  showContext();
}

function say(message, kind = "fault") {
  part("message").textContent = message;
  part("message").className = `message ${kind}`;
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) return askForKey();
  if (error.code === UNKNOWN_MODEL) loadModels().catch(fail);
  const remedy = error.code === TOO_LONG && conversation.exchanges.length ? " Clear starts a new conversation." : "";
  say(error instanceof AnswerError ? error.message + remedy : `This page failed: ${error}.`);
}

function askForKey() {
  const refused = part("key").value !== "";
  part("key-message").textContent = refused ? "The node does not know this key." : "";
  part("key").setAttribute("aria-invalid", refused);
  showKeyForm(true);
  part("key").focus();
  part("key").select();
}

function showKeyForm(shown) {
  part("key-form").hidden = !shown;
  composer.hidden = shown;
}

async function useKey() {
  part("key-message").textContent = "";
  api.useKey(part("key").value);
  try {
    await loadModels();
  } catch (error) {
    if (error.status === 401) return askForKey();
    say(error.message);
  }
  showKeyForm(false);
  prompt.focus();
}

// ---- state of the controls

/** Swap Send and Stop; the keyboard focus moves along, so that it is never lost. */
function showRunning(shown) {
  const held = document.activeElement;
  part("send").hidden = shown;
  part("stop").hidden = !shown;
  part("clear").hidden = shown || part("log").childElementCount === 0;
  if (shown && held === part("send")) part("stop").focus();
  if (!shown && (held === part("stop") || held === document.body)) prompt.focus();
}

function showMode() {
  const chat = mode() === "chat";
  part("prompt-label").textContent = chat ? "Message" : "Text to continue";
  prompt.placeholder = chat ? "Tell me a story about a dragon" : "Once upon a time";
}

/** Show how much of the model's context the last answer and its prompt take. */
function showContext() {
  const used = conversation.exchanges.at(-1)?.tokens;
  const length = contexts.get(part("model").value);
  part("context").hidden = !used || !length;
  if (part("context").hidden) return;
  const meter = part("context-meter");
  Object.assign(meter, { max: length, high: CONTEXT_HIGH * length, optimum: 0, value: used });
  part("context-text").textContent = `Context: ${used} of ${length} tokens`;
}

function showConversation() {
  for (const exchange of conversation.exchanges) Shown.past(places, exchange);
  part("welcome").hidden = conversation.exchanges.length > 0;
  part("clear").hidden = conversation.exchanges.length === 0;
}

function clear() {
  conversation.clear();
  part("log").replaceChildren();
  part("announcer").textContent = "";
  part("welcome").hidden = false;
  part("clear").hidden = true;
  showContext();
  say("");
  prompt.focus();
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
composer.addEventListener("invalid", () => (part("settings").open = true), true);
composer.addEventListener("change", showMode);
part("stop").addEventListener("click", () => running?.abort());
part("clear").addEventListener("click", clear);
part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey();
});
part("settings").addEventListener("toggle", () => {
  part("settings").scrollIntoView({ block: "nearest" }); // in a small window, opening them hides the end
});
part("model").addEventListener("change", showContext);
// An answer that is still arriving is kept as far as it came.
addEventListener("pagehide", () => {
  if (arriving && !arriving.isEmpty) conversation.keep(arriving.exchange);
});
document.addEventListener("scroll", noteScroll, { passive: true });
new ResizeObserver(followGrowth).observe(document.body);
document.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // the input method handles this key
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !composer.hidden) {
    event.preventDefault();
    composer.requestSubmit();
  }
});

showMode(); // the browser may have kept a choice across a reload
showConversation();
loadModels().catch(fail);
