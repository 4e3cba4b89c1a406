// The status page: follows the exporter's snapshots and shows each.

import { NodeSection, fillRows } from "./node.js";
import { Source, UnauthorizedError } from "./source.js";
import * as text from "./text.js";

const HEADINGS = {
  ok: "All is well",
  degraded: "Serving, with faults",
  failed: "Needs attention",
};

const part = (id) => document.getElementById(id);
const source = new Source();
const sections = new Map(); // by node id
let said = "";

function show(snapshot) {
  connection("live", "online");
  showHealth(snapshot);
  showNodes(snapshot.nodes);
  fillRows(part("request-rows"), snapshot.requests, requestCells);
  part("requests").hidden = false;
  part("requests").querySelector(".table").hidden = snapshot.requests.length === 0;
  part("no-requests").hidden = snapshot.requests.length > 0;
  const { version, uptime_seconds: uptime, durable } = snapshot.exporter;
  const kept = durable ? "counts are durable" : "counts are not durable";
  part("exporter").textContent = `Exporter ${version}, up ${text.age(uptime)}, ${kept}`;
}

function showHealth({ health, problems }) {
  part("health").hidden = false;
  part("health").dataset.state = health;
  part("health-title").textContent = HEADINGS[health];
  if ([...part("problems").children].map((each) => each.textContent).join("\n") !== problems.join("\n")) {
    part("problems").replaceChildren(...problems.map(problem));
  }
  announce([HEADINGS[health], ...problems].join(". "));
}

function showNodes(nodes) {
  const ids = new Set(nodes.map((node) => node.node_id));
  for (const [id, section] of sections) {
    if (!ids.has(id)) {
      section.remove();
      sections.delete(id);
    }
  }
  for (const node of nodes) {
    if (!sections.has(node.node_id)) sections.set(node.node_id, new NodeSection(part("nodes"), node.node_id));
    sections.get(node.node_id).show(node);
  }
}

function requestCells(request) {
  return [
    { value: text.clock(request.at) },
    { value: request.model_id, kind: "name" },
    { value: request.reason ? `${request.status}: ${request.reason}` : request.status, state: { ok: "good", error: "bad", timeout: "bad" }[request.status] ?? "" },
    { value: text.seconds(request.first_token_seconds), kind: "number spacious" },
    { value: text.seconds(request.seconds), kind: "number" },
    { value: text.seconds(request.queue_seconds), kind: "number wide" },
    { value: text.count(request.prompt_tokens), kind: "number wide" },
    { value: text.count(request.generated_tokens), kind: "number middle" },
    { value: text.number(request.tokens_per_second), kind: "number wide" },
    { value: request.request_id || text.UNKNOWN, kind: "id wide" },
  ];
}

function problem(words) {
  const item = document.createElement("li");
  item.textContent = words;
  return item;
}

/** Read out what changed; numbers within a sentence may grow without being repeated. */
function announce(words) {
  const gist = words.replace(/\d+(\.\d+)?/g, "#");
  if (gist === said) return;
  said = gist;
  part("announcer").textContent = words;
}

function connection(words, state) {
  part("connection").textContent = words;
  part("connection").dataset.state = state;
  document.body.classList.toggle("stale", state === "offline");
}

function lost(reason) {
  connection("lost, retrying", "offline");
  announce(`${reason} What is shown may be old.`);
}

async function follow() {
  try {
    await source.follow({ show, lost });
  } catch (error) {
    if (!(error instanceof UnauthorizedError)) throw error;
    connection("needs a token", "unknown");
    part("key-message").textContent = source.hasToken ? "The exporter does not know this token." : "";
    part("key-form").hidden = false;
    part("key").select();
    part("key").focus();
  }
}

part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  source.useToken(part("key").value);
  part("key").value = "";
  part("key-form").hidden = true;
  follow();
});
follow();
