// Draws a small line of the last minutes as SVG.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 180;
const HEIGHT = 32;
const POINTS = 180; // 15 minutes of 5 s; a shorter history begins at the right

/** A sparkline inside an element; gaps stay gaps. */
export class Sparkline {
  #line = document.createElementNS(SVG, "path");
  #area = document.createElementNS(SVG, "path");
  #picture = document.createElementNS(SVG, "svg");

  /** @param describe Returns the line's highest value as text. */
  constructor(place, describe) {
    this.describe = describe;
    this.#picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.#picture.setAttribute("preserveAspectRatio", "none");
    this.#picture.setAttribute("role", "img");
    this.#area.setAttribute("class", "area");
    this.#picture.append(this.#area, this.#line);
    place.append(this.#picture);
  }

  /** Draw the points, oldest first; null for unknown. */
  draw(points) {
    const known = points.filter((point) => point !== null);
    const top = Math.max(...known, 0);
    const runs = pieces(points, top || 1);
    this.#line.setAttribute("d", runs.map((run) => `M${run.join("L")}`).join(""));
    this.#area.setAttribute("d", runs.map(closed).join(""));
    const told = known.length ? `highest ${this.describe(top)}` : "no data";
    this.#picture.setAttribute("aria-label", `Last 15 minutes: ${told}`);
  }
}

/** Return the runs of known points as lists of "x,y". */
function pieces(points, top) {
  const runs = [];
  let run = null;
  points.forEach((point, index) => {
    if (point === null) {
      run = null;
      return;
    }
    if (run === null) runs.push((run = []));
    const x = ((POINTS - points.length + index) / (POINTS - 1)) * WIDTH;
    run.push(`${x.toFixed(1)},${(HEIGHT - 1 - (point / top) * (HEIGHT - 2)).toFixed(1)}`);
  });
  return runs;
}

function closed(run) {
  const x = (point) => point.split(",")[0];
  return `M${x(run[0])},${HEIGHT}L${run.join("L")}L${x(run.at(-1))},${HEIGHT}Z`;
}
