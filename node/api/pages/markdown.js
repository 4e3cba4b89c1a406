// Builds DOM nodes from a model's Markdown: headings, lists, quotes, tables, code and emphasis.
// Text of the model only ever becomes text nodes, so none of it is read as HTML.
// The rules are CommonMark's and GitHub's, less what answers do not use; a line break stays one.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^(\s*)([-*+]|(\d{1,9})[.)])(?:\s+(.*)|\s*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 8; // levels of lists and quotes; deeper ones stay text
const CERTAIN = 2; // with as many lines complete, what a block is no longer depends on what comes

// In this order: what is code is nothing else, and a doubled sign is not two single ones. The limits
// keep a hostile text from costing more than its length.
const INLINE = new RegExp(
  [
    String.raw`(?<escape>\\[\\\x60*_{}[\]()#+\-.!|~<>])`,
    String.raw`(?<ticks>\x60+)(?<code>[^]{0,2000}?[^\x60])\k<ticks>(?!\x60)`,
    String.raw`\*\*(?=\S)(?<strong>[^]{0,2000}?\S)\*\*(?!\*)`,
    String.raw`(?<![\p{L}\p{N}_])__(?=\S)(?<strong2>[^]{0,2000}?\S)__(?![\p{L}\p{N}_])`,
    String.raw`\*(?=[^\s*])(?<em>(?:[^*]|\*\*[^*]{1,2000}\*\*){0,2000}?[^\s*])\*(?!\*)`,
    String.raw`(?<![\p{L}\p{N}_])_(?=[^\s_])(?<em2>[^_]{0,2000}?[^\s_])_(?![\p{L}\p{N}_])`,
    String.raw`~~(?=\S)(?<del>[^~]{0,2000}?\S)~~`,
    String.raw`\[(?<label>[^\]\n]{1,500})\]\((?<url>https?:\/\/[^\s()<>]{1,2000})\)`,
  ].join("|"),
  "gu",
);

/** Shows a text that grows. Only its last blocks can still change, and are built again. */
export class Growing {
  #place;
  #open = ""; // the text of the blocks that can change
  #nodes = []; // these blocks

  constructor(place) {
    this.#place = place;
  }

  /** Add a piece of the text. */
  add(piece) {
    const text = this.#open + piece;
    const blocks = read(text.split("\n"), 0);
    for (const node of this.#nodes) node.remove();
    this.#place.append(...blocks.map(({ node }) => node));
    const lines = ({ start }) => text.slice(start).split("\n").length - 1;
    const certain = Math.max(blocks.findLastIndex((block) => lines(block) >= CERTAIN), 0);
    this.#nodes = blocks.slice(certain).map(({ node }) => node);
    this.#open = text.slice(blocks[certain]?.start ?? 0);
  }
}

/** Return the blocks of some lines, each as `{node, start}`: the offset of its first line. */
function read(lines, depth) {
  const blocks = [];
  let at = 0;
  let start = 0;
  while (at < lines.length) {
    const [node, end] = lines[at].trim() === "" ? [null, at + 1] : block(lines, at, depth);
    if (node) blocks.push({ node, start });
    for (; at < end; at += 1) start += lines[at].length + 1;
  }
  return blocks;
}

/** Return the block that begins at a line, and the line after it. */
function block(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  // The page's own headings are h1 and h2.
  if (heading) return [inline(`h${Math.min(heading[1].length + 2, 6)}`, heading[2] ?? ""), at + 1];
  if (RULE.test(line)) return [document.createElement("hr"), at + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at);
}

function fenced(lines, at, [, fence, language]) {
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const pre = document.createElement("pre");
  const code = document.createElement("code");
  code.textContent = lines.slice(at + 1, end).join("\n");
  if (language) pre.dataset.language = language;
  pre.tabIndex = 0; // wide code scrolls, by keyboard too
  pre.append(code);
  return [pre, Math.min(end + 1, lines.length)];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const quoted = lines.slice(at, end).map((line) => QUOTE.exec(line)[1]);
  return [within("blockquote", quoted, depth), end];
}

/** An item holds the lines that are indented further than its marker, blank ones between them too. */
function list(lines, at, depth) {
  const [, indent, , number] = ITEM.exec(lines[at]);
  const made = document.createElement(number === undefined ? "ul" : "ol");
  if (number !== undefined && number !== "1") made.start = Number(number);
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    const belongs =
      item && item[1].length <= indent.length + 1 && (item[3] === undefined) === (number === undefined);
    if (!belongs || RULE.test(lines[end])) break;
    const content = [item[4] ?? ""];
    for (end += 1; end < lines.length && isInside(lines, end, item[1].length + 2); end += 1) {
      content.push(lines[end].slice(Math.min(item[1].length + item[2].length + 1, indentOf(lines[end]))));
    }
    made.append(within("li", content, depth));
    const next = skipBlank(lines, end);
    if (next < lines.length && ITEM.test(lines[next])) end = next;
  }
  return [made, end];
}

function isInside(lines, at, indent) {
  if (lines[at].trim() !== "") {
    return indentOf(lines[at]) >= indent || (lines[at - 1].trim() !== "" && !beginsBlock(lines[at]));
  }
  const next = skipBlank(lines, at);
  return next < lines.length && indentOf(lines[next]) >= indent;
}

function skipBlank(lines, at) {
  while (at < lines.length && lines[at].trim() === "") at += 1;
  return at;
}

const indentOf = (line) => line.length - line.trimStart().length;

const beginsBlock = (line) =>
  [FENCE, HEADING, RULE, ITEM, QUOTE].some((begin) => begin.test(line));

function isTable(lines, at) {
  const [head, divider] = [lines[at], lines[at + 1] ?? ""];
  return head.includes("|") && DIVIDER.test(divider) && cells(head).length === cells(divider).length;
}

function table(lines, at) {
  const made = document.createElement("table");
  const width = cells(lines[at]).length;
  row(made.createTHead(), "th", cells(lines[at]), width);
  const body = made.createTBody();
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|"); end += 1) {
    row(body, "td", cells(lines[end]), width);
  }
  const wide = document.createElement("div"); // a wide table scrolls, not the page
  wide.className = "wide";
  wide.tabIndex = 0;
  wide.append(made);
  return [wide, end];
}

function row(place, kind, texts, width) {
  const made = document.createElement("tr");
  for (let at = 0; at < width; at += 1) made.append(inline(kind, texts[at] ?? ""));
  place.append(made);
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "" && !beginsBlock(lines[end]) && !isTable(lines, end)) {
    end += 1;
  }
  return [inline("p", lines.slice(at, end).join("\n").trim()), end];
}

function within(kind, lines, depth) {
  const made = document.createElement(kind);
  const blocks = read(lines, depth + 1);
  const isShort = kind === "li" && blocks[0]?.node.localName === "p"; // no paragraph for a plain item
  if (isShort) made.append(...blocks.shift().node.childNodes);
  made.append(...blocks.map(({ node }) => node));
  return made;
}

/** Return an element with a text in which emphasis, code and links are elements. */
function inline(kind, text) {
  const made = document.createElement(kind);
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    made.append(text.slice(end, found.index), span(found.groups));
    end = found.index + found[0].length;
  }
  made.append(text.slice(end));
  return made;
}

function span(found) {
  if (found.escape) return found.escape.slice(1);
  if (found.code !== undefined) return plain("code", found.code);
  if (found.url) return link(found.label, found.url);
  const [kind, text] =
    found.strong || found.strong2 ? ["strong", found.strong ?? found.strong2] :
    found.del ? ["del", found.del] :
    ["em", found.em ?? found.em2];
  return inline(kind, text);
}

function plain(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

/** A link shows where it leads, whatever the model calls it. */
function link(label, url) {
  const made = plain("a", label);
  made.href = url;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  const shown = document.createDocumentFragment();
  shown.append(made, label === url ? "" : ` (${new URL(url).host})`);
  return shown;
}
