// Charts over time, which show the same stretch of the recording and the instant of the film, and what they share.
// Drag over a chart to see a stretch, double-click to see all, click to go to an instant. Nothing is loaded.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const style = getComputedStyle(document.documentElement);
const colour = name => style.getPropertyValue("--" + name).trim();
const INK = colour("ink"), FAINT = colour("faint"), LINE = colour("line"), REJECTED = colour("bad");
const LEFT = 52, RIGHT = 10, TOP = 6, BOTTOM = 20;
const LONGEST = 4;  // seconds for which a chunk is in force; behind that nothing was

// ---------------------------------------------------------------- numbers

function bytes(text) {
  return Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
}

function unpack(text, low, high) {  // sixteen-bit shares of a range, 0 is "not known"
  const levels = new Uint16Array(bytes(text)), values = new Float32Array(levels.length);
  for (let i = 0; i < levels.length; i++)
    values[i] = levels[i] ? low + (high - low) * (levels[i] - 1) / 65534 : NaN;
  return values;
}

function upTo(times, t) {  // index of the last time that is not after t, or -1
  let low = 0, high = times.length;
  while (low < high) { const middle = (low + high) >> 1; times[middle] <= t ? low = middle + 1 : high = middle; }
  return low - 1;
}

function ticks(low, high, about) {
  const raw = (high - low) / about || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(s => s >= raw);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(n * step);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function usual(values) {  // the largest, unless a few are far beyond the others: then what nineteen in twenty stay below
  const sorted = Float64Array.from(values).sort(), most = sorted[sorted.length - 1];
  const common = sorted[Math.floor(0.95 * (sorted.length - 1))];
  return most > 2.5 * common ? 1.5 * common : most;
}

const short = (value, digits = 3) => value == null || Number.isNaN(value) ? "–" : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");

// ---------------------------------------------------------------- what all charts over time share

const chunks = data.chunks, starts = chunks.map(chunk => chunk.start), first = chunks[0], last = chunks[chunks.length - 1];
const whole = [Math.min(first.at, first.start), Math.max(last.at, last.start) + last.span];
const view = { from: whole[0], to: whole[1], now: whole[0], charts: [] };
const drawn = [];  // all charts, also those that are not over time
const video = document.querySelector("video");

function show(from, to) {
  [view.from, view.to] = to - from < 0.2 ? whole : [Math.max(from, whole[0]), Math.min(to, whole[1])];
  view.charts.forEach(chart => chart.draw());
  document.getElementById("stretch").textContent = `${short(view.from, 1)} to ${short(view.to, 1)} s`;
}

function go(t, byVideo) {
  view.now = t;
  view.charts.forEach(chart => chart.point());
  if (!byVideo && video) video.currentTime = Math.min(Math.max(0, t - data.film.begin), video.duration || 0);
  const here = chunks[Math.max(0, upTo(starts, t))];
  const words = [["time", `${short(t, 2)} s`], ["instruction", `“${here.prompt}”`],
    ["chunk", `${here.index} of epoch ${here.epoch}`], ["verdict", here.verdict.replaceAll("_", " ")],
    ["regime", here.regime.replaceAll("_", " ")], ["surprise", short(here.surprise)]];
  const now = document.getElementById("now");
  now.replaceChildren(...words.map(([name, text]) => {
    const span = document.createElement("span"), bold = document.createElement("b");
    bold.textContent = text;
    span.append(name + " ", bold);
    return span;
  }));
}

// ---------------------------------------------------------------- a chart

class Chart {
  // series: {name, colour, times, values, breaks, dash, width, dots}; options: {unit, height, zero, range, still, filled}
  constructor(place, title, series, options = {}) {
    this.series = series;
    this.options = options;
    const element = this.element = document.createElement("div");
    element.className = "chart" + (options.still ? " still" : "") + (options.filled ? " filled" : "");
    element.innerHTML = '<div class="head"><b></b><span class="values"></span></div><canvas></canvas>' +
      '<div class="cursor"></div><div class="brush"></div>';
    element.querySelector("b").textContent = title + (options.unit ? ` [${options.unit}]` : "");
    this.canvas = element.querySelector("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.cursor = element.querySelector(".cursor");
    this.brush = element.querySelector(".brush");
    this.words = element.querySelector(".values");
    document.getElementById(place).append(element);
    drawn.push(this);
    if (options.still) return;
    view.charts.push(this);
    this.seen = true;
    this.listen();
  }

  get span() { return this.options.still ? this.options.still : [view.from, view.to]; }
  x(t) { const [a, b] = this.span; return LEFT + (t - a) / (b - a) * (this.width - LEFT - RIGHT); }
  t(x) { const [a, b] = this.span; return a + (x - LEFT) / (this.width - LEFT - RIGHT) * (b - a); }

  listen() {
    const at = event => Math.min(Math.max(event.offsetX, LEFT), this.width - RIGHT);
    let from = null;
    const leave = () => { from = null; this.brush.style.display = "none"; };
    this.canvas.addEventListener("pointercancel", leave);  // a finger that scrolls the page
    this.canvas.addEventListener("pointerdown", event => { from = at(event); this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener("pointermove", event => {
      if (from === null) return;
      const [a, b] = [from, at(event)].sort((p, q) => p - q);
      Object.assign(this.brush.style, { display: "block", left: this.canvas.offsetLeft + a + "px", width: b - a + "px",
        top: this.canvas.offsetTop + TOP + "px", height: this.height - TOP - BOTTOM + "px" });
    });
    this.canvas.addEventListener("pointerup", event => {
      if (from === null) return;
      const [a, b] = [from, at(event)].sort((p, q) => p - q);
      leave();
      b - a > 4 ? show(this.t(a), this.t(b)) : go(this.t(b));
    });
    this.canvas.addEventListener("dblclick", () => show(...whole));
    new IntersectionObserver(([entry]) => {
      const appears = entry.isIntersecting && !this.seen;
      this.seen = entry.isIntersecting;
      if (appears) this.draw();
    }, { rootMargin: "300px" }).observe(this.element);
  }

  draw() {
    if (!this.options.still && !this.seen && this.width) return;
    const ratio = window.devicePixelRatio || 1, context = this.canvas.getContext("2d");
    this.width = this.element.clientWidth - 20;
    this.height = this.options.height || 130;
    this.canvas.style.height = this.height + "px";
    Object.assign(this.canvas, { width: this.width * ratio, height: this.height * ratio });
    context.scale(ratio, ratio);
    context.font = "11px system-ui, sans-serif";
    this.paint(context);
    this.point();
  }

  paint(context) {
    const [low, high] = this.range();
    const y = value => this.height - BOTTOM - (value - low) / (high - low) * (this.height - TOP - BOTTOM);
    this.axes(context, ticks(low, high, 4), y);
    context.save();
    context.beginPath();
    context.rect(LEFT, TOP - 3, this.width - LEFT - RIGHT, this.height - TOP - BOTTOM + 6);
    context.clip();
    for (const series of this.series) this.line(context, series, y);
    context.restore();
  }

  range() {
    if (this.options.range) return this.options.range;
    let low = Infinity, high = -Infinity;
    for (const { times, values } of this.series) {
      const begin = Math.max(0, upTo(times, this.span[0]) - 1), end = Math.min(times.length, upTo(times, this.span[1]) + 3);
      for (let i = begin; i < end; i++) {
        if (values[i] < low) low = values[i];
        if (values[i] > high) high = values[i];
      }
    }
    if (!(low <= high)) return [0, 1];
    if (this.options.usual) high = Math.min(high, usual(this.series.flatMap(({ values }) => [...values])));
    if (this.options.zero) low = Math.min(0, low);
    const least = this.options.least || 0;  // what is smaller than this is no motion, and not to be looked at closely
    if (high - low < least && !this.options.zero) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
    if (this.options.zero) high = Math.max(high, least);
    const room = (high - low) * 0.06 || 1e-3;
    return [this.options.zero && low === 0 ? 0 : low - room, high + room];
  }

  axes(context, vertical, y) {
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const value of vertical ? vertical.found : []) {
      context.strokeStyle = LINE;
      context.beginPath(); context.moveTo(LEFT, y(value)); context.lineTo(this.width - RIGHT, y(value)); context.stroke();
      context.fillStyle = FAINT;
      context.fillText(value.toFixed(vertical.digits), LEFT - 6, y(value));
    }
    const across = ticks(...this.span, Math.max(3, this.width / 110));
    context.textAlign = "center";
    context.textBaseline = "top";
    across.found.forEach(value => {
      const text = value.toFixed(across.digits) + " s", half = context.measureText(text).width / 2;
      context.fillText(text, Math.min(this.x(value), this.width - half), this.height - BOTTOM + 5);
    });
  }

  line(context, series, y) {
    const { times, values, breaks } = series;
    const begin = Math.max(0, upTo(times, this.span[0]) - 1), end = Math.min(times.length, upTo(times, this.span[1]) + 3);
    context.strokeStyle = context.fillStyle = series.colour;
    context.lineWidth = series.width || 1.5;
    context.setLineDash(series.dash || []);
    context.beginPath();
    let drawing = false;
    for (let i = begin; i < end; i++) {
      const value = values[i];
      if (value == null || Number.isNaN(value)) { drawing = false; continue; }
      if (drawing && (breaks ? breaks[i] : times[i] - times[i - 1] > 1.5)) drawing = false;
      drawing ? context.lineTo(this.x(times[i]), y(value)) : context.moveTo(this.x(times[i]), y(value));
      drawing = true;
    }
    context.stroke();
    context.setLineDash([]);
    const sparse = (this.width - LEFT - RIGHT) / (end - begin) > (series.dots === "seams" ? 0.35 : 5);
    if (!series.dots || !sparse) return;
    for (let i = begin; i < end; i++) {
      if (values[i] == null || (series.dots === "seams" && !breaks[i])) continue;
      context.beginPath(); context.arc(this.x(times[i]), y(values[i]), series.dots === "seams" ? 3.2 : 2.2, 0, 7); context.fill();
    }
  }

  point() {
    const x = this.x(view.now), inside = x >= LEFT - 1 && x <= this.width - RIGHT + 1;
    Object.assign(this.cursor.style, { display: inside ? "block" : "none", left: this.canvas.offsetLeft + x + "px",
      top: this.canvas.offsetTop + TOP + "px", height: this.height - TOP - BOTTOM + "px" });
    if (this.options.still) this.cursor.style.display = "none";
    if (this.options.still || this.seen) this.read();
  }

  read() {  // the numbers at the instant of the film
    this.words.replaceChildren(...this.series.filter(series => series.name).map(series => {
      const span = document.createElement("span");
      // Where two lines are one quantity, the one that began to speak last is meant.
      const lines = this.series.filter(other => other === series || other.of === series.name);
      const [newest] = lines.map(line => ({ line, i: upTo(line.times, view.now) })).filter(({ i }) => i >= 0)
        .sort((a, b) => b.line.times[b.i] - a.line.times[a.i]);
      span.style.setProperty("--colour", series.colour);
      span.style.setProperty("--stroke", series.dash ? "dashed" : "solid");
      span.title = series.name;
      const value = newest ? short(newest.line.values[newest.i], series.digits) : "–";
      span.textContent = this.options.terse ? value : this.options.still ? series.name : `${series.name} ${value}`;
      return span;
    }));
  }
}

class Stack extends Chart {  // a bar for every instant of the series, which share their times, one upon the other
  totals() {
    return this.series[0].times.map((_, i) => this.series.reduce((sum, series) => sum + (series.values[i] || 0), 0));
  }
  range() {
    const within = this.totals().filter((_, i) => this.shown(i));
    return [0, usual(within.length ? within : [1]) * 1.12];
  }
  shown(i) {
    const t = this.series[0].times[i];
    return t >= this.span[0] - 2 && t <= this.span[1];
  }
  paint(context) {
    const [low, high] = this.range(), y = value => this.height - BOTTOM - value / high * (this.height - TOP - BOTTOM);
    this.axes(context, ticks(low, high, 4), y);
    const { times } = this.series[0], totals = this.totals();
    times.forEach((t, i) => {
      if (!this.shown(i)) return;
      const from = Math.max(LEFT, this.x(t)), next = Math.min(times[i + 1] ?? Infinity, t + first.span);
      const wide = Math.max(1, Math.min(this.width - RIGHT, this.x(next)) - from - 1);
      if (from > this.width - RIGHT) return;
      let below = 0;
      for (const { values, colour } of this.series) {
        const [a, b] = [y(Math.min(below, high)), y(Math.min(below + (values[i] || 0), high))];
        context.fillStyle = colour;
        context.fillRect(from, b, wide, a - b);
        below += values[i] || 0;
      }
      if (totals[i] > high) {  // taller than the drawing: its height in words
        context.fillStyle = INK;
        context.textAlign = "center";
        context.textBaseline = "top";
        context.fillText(`↑ ${totals[i].toFixed(0)}`, Math.max(from + wide / 2, LEFT + 16), TOP - 4);
      }
    });
  }
}

function fitting(context, text, width) {  // as much of it as is seen there, nothing if that would be no word
  if (context.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 3 && context.measureText(text.slice(0, end).trimEnd() + "…").width > width) end--;
  return end > 3 ? text.slice(0, end).trimEnd() + "…" : "";
}

class Bands extends Chart {  // what was in force: a row of coloured stretches for each of {name, of, colour}
  paint(context) {
    this.axes(context, null, null);
    this.series.forEach(({ name, of, colour }, row) => {
      const top = TOP + row * 24;
      context.fillStyle = INK;
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.fillText(name, LEFT - 6, top + 9);
      let begin = 0;
      chunks.forEach((chunk, i) => {
        const next = chunks[i + 1];
        if (next && of(next) === of(chunk) && next.start - chunk.start <= LONGEST) return;
        const from = Math.max(LEFT, this.x(chunks[begin].start));
        const to = Math.min(this.width - RIGHT, this.x(next ? Math.min(next.start, chunk.start + LONGEST) : chunk.start + chunk.span));
        begin = i + 1;
        if (to <= from) return;
        context.fillStyle = colour(of(chunk));
        context.fillRect(from, top, Math.max(1, to - from - 0.5), 18);
        context.fillStyle = context.fillStyle === REJECTED ? "#ffffff" : INK;
        context.textAlign = "left";
        context.fillText(fitting(context, of(chunk).replaceAll("_", " "), to - from - 10), from + 5, top + 9.5);
      });
    });
  }
  range() { return [0, 1]; }
  read() {}
}
