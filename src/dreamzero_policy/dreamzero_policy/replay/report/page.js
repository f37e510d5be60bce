// The page's own charts, its film and its buttons. Stands behind charts.js.
"use strict";

const VERDICT = { accepted: "#8fbfa3" };
const REGIMES = { stop_and_go: "#b9c3d0", slowed: "#e3b65b", overlap: "#7fa8d6" };

const series = (name, key, tint, more = {}) => {
  const known = chunks.filter(chunk => chunk[key] != null).sort((a, b) => a.start - b.start);
  return { name, colour: tint, times: known.map(c => c.start), values: known.map(c => c[key]), dots: "all", ...more };
};
const has = key => chunks.some(chunk => chunk[key] != null);
const both = [has("commands") && series("from commands", "commands", colour("commanded"), { digits: 4 }),
  has("states") && series("from states", "states", colour("measured"), { digits: 4 })].filter(Boolean);

const tints = ["#cfe0f3", "#f6dcc6", "#d5ead9", "#ead9ee", "#f3e8c3", "#d3e9ec", "#f4d5da", "#e2e2e2"];
const prompts = [...new Set(chunks.map(c => c.prompt))];
document.querySelectorAll(".prompts li").forEach((item, i) => { item.style.background = tints[i % tints.length]; });
new Bands("overview", "What was in force", [
  { name: "asked", of: c => c.prompt, colour: p => tints[prompts.indexOf(p) % tints.length] },
  { name: "regime", of: c => c.regime, colour: r => REGIMES[r] || "#cccccc" },
  { name: "verdict", of: c => c.verdict.replace(/^rejected_/, ""), colour: v => VERDICT[v] || REJECTED },
], { height: 24 * 3 + TOP + BOTTOM });
if (has("surprise"))
  new Chart("overview", "Surprise: root mean square distance of predicted from observed latents [normalised]",
    [series("standing still", "still", "#9aa4b2", { dash: [4, 3] }), series("surprise", "surprise", colour("predicted"))],
    { zero: true });
if (has("change"))
  new Chart("overview", "Counterfactual: how far from the recorded policy", [series("change", "change", colour("warn"), { digits: 4 })],
    { zero: true, unit: "rad, m" });
if (both.length) new Chart("overview", "Action error of a chunk, mean over joints", both, { zero: true, unit: "rad, m" });
if (has("live_ms")) {
  const live = chunks.filter(chunk => chunk.live_ms).sort((a, b) => a.start - b.start);
  // On simulated time the way between processes may come out below zero, and means nothing.
  const part = (name, key, tint) => ({ name, colour: tint, digits: 0, times: live.map(c => c.start), values: live.map(c => Math.max(0, c.live_ms[key])) });
  new Stack("overview", "Latency live: from what was seen to the first commanded point", [
    part("until asked", "request", "#b9c3d0"), part("model", "model", colour("commanded")),
    part("between processes", "handover", "#8fb3de"), part("to the controllers", "command", "#8fbfa3")], { zero: true, unit: "ms", filled: true });
}
new Chart("overview", "Latency here", [
  series("request to answer, on the clock of the recording", "latency_ms", "#9aa4b2", { digits: 0 }),
  series("model on this machine", "model_ms", colour("predicted"), { digits: 0 }),
].filter(s => s.times.length && s.values.some(v => v > 0)), { zero: true, unit: "ms", height: 100, usual: true });

const motion = data.motion, float = text => new Float32Array(bytes(text));
const times = float(motion.times), recorded = float(motion.recorded_times);
const chunk = new Int32Array(bytes(motion.chunk)), executed = new Uint8Array(bytes(motion.executed));
const order = [...times.keys()];  // of chunks that overlap, each is drawn as a whole: they are told apart by parity
const lanes = [0, 1].map(lane => order.filter(i => chunk[i] % 2 === lane));
for (const joint of motion.joints) {
  const values = unpack(joint.predicted, joint.low, joint.high), lines = [];
  lanes.forEach((rows, lane) => {  // below what was recorded and broader, so that both are seen where they agree
    if (!rows.length) return;
    lines.push({ name: lane ? "" : "predicted", of: "predicted", colour: colour("predicted"), times: rows.map(i => times[i]),
      values: rows.map(i => values[i]), breaks: rows.map((i, n) => !n || chunk[rows[n - 1]] !== chunk[i]), dots: "seams", width: 3 });
  });
  if (joint.commands)
    lines.push({ name: "commanded", colour: colour("commanded"), times: recorded, values: unpack(joint.commands, joint.low, joint.high), width: 1.4 });
  lines.push({ name: "measured", colour: colour("measured"), times: recorded, values: unpack(joint.states, joint.low, joint.high), width: 1.1 });
  new Chart("joints-" + joint.group, joint.name, lines, { unit: joint.unit, height: 110, terse: true, least: 0.01 });
}

for (const group of data.horizon.groups) {
  const lines = [["commands", "commanded"], ["states", "measured"]].filter(([key]) => group[key].some(v => v != null))
    .map(([key, tint]) => ({ name: "from " + key, colour: colour(tint), times: data.horizon.seconds, values: group[key], width: 2 }));
  const end = data.horizon.seconds.length - 1;
  if (lines.length)
    new Chart("horizon", group.name.replaceAll("_", " "), lines, { unit: group.unit, zero: true, least: 0.001, height: 150,
      still: [0, data.horizon.seconds[end]] });
}

// ---------------------------------------------------------------- film, buttons

// report.html#t=12.5 opens at that instant; else where something was predicted already.
const asked = location.hash.match(/^#t=([\d.]+)$/);
const begin = asked ? Number(asked[1]) : first.start + first.span;

const play = document.getElementById("play"), slide = document.getElementById("slide");
const openFilm = () => { slide.max = video.duration; go(begin); };

if (video) {
  const follow = () => {
    go(video.currentTime + data.film.begin, true);
    slide.value = video.currentTime;
    if (!video.paused) requestAnimationFrame(follow);
  };
  video.addEventListener("seeking", follow);
  video.addEventListener("play", () => { play.textContent = "pause"; follow(); });
  video.addEventListener("pause", () => { play.textContent = "play"; });
  video.addEventListener("click", () => play.click());
  play.addEventListener("click", () => video.paused ? video.play() : video.pause());
  slide.addEventListener("input", () => { video.currentTime = slide.value; });
  document.getElementById("pace").addEventListener("change", event => { video.playbackRate = event.target.value; });
}
document.getElementById("all").addEventListener("click", () => show(...whole));
document.querySelectorAll("[data-at]").forEach(link => link.addEventListener("click", event => {
  event.preventDefault();
  const t = Number(link.dataset.at);
  show(t - 3, t + 5);
  go(t);
  document.getElementById("film").scrollIntoView({ behavior: "smooth" });
}));
addEventListener("resize", () => drawn.forEach(chart => chart.draw()));
show(...whole);
drawn.filter(chart => chart.options.still).forEach(chart => chart.draw());
go(begin, true);
if (video)  // which may be there before its listener is
  video.readyState ? openFilm() : video.addEventListener("loadedmetadata", openFilm, { once: true });
document.body.dataset.ready = "true";
