// Shows one node: its state, four figures with their last minutes, its models and its mesh.

import { Sparkline } from "./sparkline.js";
import * as text from "./text.js";

const LINES = {
  tokens_per_second: text.number,
  first_token_p95_seconds: text.seconds,
  queued: text.number,
  failed: text.number,
};

/** The section of one node, updated in place so that focus and selection stay. */
export class NodeSection {
  #root = document.getElementById("node-template").content.cloneNode(true).firstElementChild;
  #lines = {};
  #peers = "";

  constructor(place, nodeId) {
    const title = this.#root.querySelector("h2");
    title.textContent = nodeId;
    title.id = `node-${nodeId}`;
    this.#root.setAttribute("aria-labelledby", title.id);
    this.#root.querySelector(".table").setAttribute("aria-label", `Models of ${nodeId}`);
    for (const [name, describe] of Object.entries(LINES)) {
      const line = this.#root.querySelector(`[data-line=${name}]`);
      this.#lines[name] = new Sparkline(line, describe);
    }
    place.append(this.#root);
  }

  /** Show what the snapshot tells of the node. */
  show(node) {
    const { traffic } = node;
    this.#badge(node);
    this.#set("about", about(node));
    this.#set("speed", text.number(traffic.tokens_per_second));
    this.#set("speed-more", traffic.in_flight ? `${traffic.in_flight} running or waiting` : "");
    this.#set("p95", text.seconds(traffic.first_token.p95_seconds));
    this.#set("p50", `p50 ${text.seconds(traffic.first_token.p50_seconds)}`);
    this.#set("queued", node.up ? text.count(traffic.queued) : text.UNKNOWN);
    this.#set("slots", node.up ? `${traffic.slots_busy} of ${traffic.slots_total} slots busy` : "");
    this.#set("failed", text.count(failed(traffic)));
    this.#set("ended", ended(traffic));
    for (const name of Object.keys(LINES)) this.#lines[name].draw(node.sparklines[name]);
    this.#root.querySelector(".table").hidden = node.models.length === 0;
    fillRows(this.#root.querySelector("tbody"), node.models, modelCells);
    this.#set("telemetry", proof(node.telemetry));
    this.#field("telemetry").dataset.state = node.telemetry.lost ? "bad" : "good";
    this.#set("machine", machine(node.machine));
    this.#showPeers(node.peers);
  }

  /** Remove the node from the page. */
  remove() {
    this.#root.remove();
  }

  #badge(node) {
    const badge = this.#field("state");
    badge.textContent = node.up ? node.state : node.departed ? "said goodbye" : "gone";
    badge.dataset.state = node.up ? node.state : node.departed ? "unknown" : "offline";
  }

  #showPeers(peers) {
    const told = JSON.stringify(peers);
    if (told === this.#peers) return; // a link keeps its focus
    this.#peers = told;
    const list = this.#root.querySelector(".peers");
    list.replaceChildren(...(peers.length ? peers.map(peerItem) : [item("no peers")]));
  }

  #set(name, value) {
    const field = this.#field(name);
    if (field.textContent !== value) field.textContent = value;
  }

  #field(name) {
    return this.#root.querySelector(`[data-field=${name}]`);
  }
}

/** Fill a table's body with one row an item, changing only what differs. */
export function fillRows(body, items, cells) {
  while (body.rows.length > items.length) body.deleteRow(-1);
  items.forEach((each, index) => {
    const row = body.rows[index] ?? body.insertRow();
    cells(each).forEach(({ value, kind = "", state = "", header = false }, place) => {
      const cell = row.cells[place] ?? row.appendChild(document.createElement(header ? "th" : "td"));
      if (header) cell.scope = "row";
      cell.className = kind;
      cell.dataset.state = state;
      if (cell.textContent !== value) cell.textContent = value;
    });
  });
}

/** Return how many of the requests that ended failed. */
export function failed(traffic) {
  return traffic.ended.error + traffic.ended.timeout;
}

function about(node) {
  if (!node.up) return node.silent_seconds === null ? "" : `silent for ${text.age(node.silent_seconds)}`;
  return `up ${text.age(node.uptime_seconds)}, version ${node.version}, Python ${node.python}`;
}

function ended(traffic) {
  const all = Object.values(traffic.ended).reduce((sum, each) => sum + each, 0);
  const rejected = traffic.ended.rejected ? `, ${text.count(traffic.ended.rejected)} rejected` : "";
  return `of ${text.count(all)} requests${rejected}`;
}

function proof({ emitted, applied, dropped, lost, lag_seconds: lag }) {
  const sum = `${text.count(emitted)} emitted = ${text.count(applied)} applied + ${text.count(dropped)} dropped`;
  const loss = lost ? ` + ${text.count(lost)} lost` : "";
  return `${sum}${loss}; ${text.seconds(lag)} behind`;
}

function machine(told) {
  if (told.total_bytes === null) return "unknown";
  return [
    `CPU ${text.percent(told.host_cpu_percent)} of ${text.number(told.cpu_cores)} cores`,
    `node ${text.bytes(told.node_bytes)}`,
    `engines ${text.bytes(told.engine_bytes)}`,
    `${text.bytes(told.available_bytes)} of ${text.bytes(told.total_bytes)} free`,
  ].join(", ");
}

function modelCells(model) {
  const { traffic } = model;
  const { crashed, stalled } = model.restarts;
  return [
    { value: model.model_id, header: true, kind: "name" },
    { ...modelState(model) },
    { value: `${traffic.slots_busy}/${traffic.slots_total}`, kind: "number" },
    { value: text.count(traffic.queued), kind: "number" },
    { value: text.number(traffic.tokens_per_second), kind: "number" },
    { value: text.seconds(traffic.first_token.p50_seconds), kind: "number wide" },
    { value: text.seconds(traffic.first_token.p95_seconds), kind: "number middle" },
    { value: text.count(failed(traffic)), kind: "number middle", state: failed(traffic) ? "bad" : "" },
    { value: text.count(traffic.ended.rejected), kind: "number wide" },
    { value: text.count(crashed + stalled), kind: "number wide" },
  ];
}

function modelState(model) {
  if (model.stalled) return { value: `stalled for ${text.age(model.silent_seconds)}`, state: "bad" };
  if (model.load_ratio !== null) return { value: `loading, ${text.percent(100 * model.load_ratio)}` };
  return { value: model.state };
}

function peerItem(peer) {
  const made = document.createElement("li");
  const name = document.createElement(peer.page_url ? "a" : "span");
  name.textContent = peer.node_id;
  if (peer.page_url) name.href = peer.page_url;
  const badge = document.createElement("span");
  badge.className = "badge";
  badge.dataset.state = peer.status;
  badge.textContent = peer.status;
  made.append(name, " ", badge);
  return made;
}

function item(words) {
  const made = document.createElement("li");
  made.textContent = words;
  return made;
}
