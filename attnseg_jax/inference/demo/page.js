"use strict";
const $ = (id) => document.getElementById(id);
const LETTERS = ["A", "B"], DIFFERENT = [255, 0, 110];
const heat = (v) => [40 + 215 * v, 10 + 210 * v * v, 120 - 100 * v];
// `looks` has what the point attends to in each model, `alone` the name of the only class to show.
let models = [], found, looks = [], names = [], alone = null, point = [0, 0], asked = 0, split = 50, layers = [];

const ask = async (path, options) => {
  const answer = await fetch(path, options), values = await answer.json();
  if (!answer.ok) throw new Error(values.error);
  return values;
};
const guarded = (action) => async (...given) => {
  $("error").textContent = "";
  try { await action(...given); } catch (error) { $("error").textContent = error.message; }
  $("busy").textContent = "";
};
// The values of a gray picture.
const values = async (url) => {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  return pen.getImageData(0, 0, image.width, image.height).data.filter((_, i) => i % 4 === 0);
};
const view = () => document.querySelector("[name=view]:checked").value;
const two = () => models.length > 1;
const mean = (numbers) => numbers.reduce((sum, v) => sum + v, 0) / numbers.length;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const made = (kind, name, text = "") => {
  const element = document.createElement(kind);
  element.className = name;
  element.textContent = text;
  return element;
};
// A class has one colour, in every model that knows it.
const colour = (name) => models.flatMap((model) => model.classes).find((one) => one.name === name).colour;
const alike = () => {
  const [one, other] = models.map(({ classes }) => classes.map(({ name }) => name).sort().join("\n"));
  return one === other;
};
const called = (side, place) => models[side].classes[found.found[side].mask[place]].name;

// A picture of bytes, by what each of the 256 is drawn as: [red, green, blue, opacity].
const tile = (bytes, rows, columns, drawn) => {
  const table = Uint32Array.from({ length: 256 }, (_, i) => {
    const [r, g, b, a] = drawn(i).map(Math.round);
    return r | (g << 8) | (b << 16) | (a << 24);
  });
  const data = new ImageData(columns, rows), pixels = new Uint32Array(data.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[bytes[i]];
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
};
const NOTHING = [0, 0, 0, 0], DARK = [0, 0, 0, 150];
const layer = (side) => {
  const [h, w] = found.size, strength = 255 * $("opacity").value, look = looks[side];
  if (view() === "look" && look) {
    const drawn = (v) => [...heat(v / 255), strength * (0.3 + (0.7 * v) / 255)];
    return { canvas: tile(look.map, ...look.cells, drawn), reach: look.reach };
  }
  const classes = models[side].classes;
  const drawn = {
    mask: (k) => {
      if (k >= classes.length) return NOTHING;
      return alone === null || classes[k].name === alone ? [...colour(classes[k].name), strength] : DARK;
    },
    confidence: (v) => [...heat(v / 255), strength],
    look: () => NOTHING,
    // Of one class what only one of the models calls so.
    difference: (v) => (v ? [...DIFFERENT, strength] : DARK),
  }[view()];
  const bytes = view() === "confidence" ? found.found[side].confidence : found.found[side].mask;
  return { canvas: tile(view() === "difference" ? differing(alone) : bytes, h, w, drawn), reach: [1, 1] };
};
// 1 where the models disagree, of one class where they disagree about it.
const differing = (name = null) => {
  const [one, other] = found.found.map(({ mask }) => mask), all = models.map(({ classes }) => classes);
  const table = all[0].map((a) => all[1].map((b) => a.name !== b.name && [null, a.name, b.name].includes(name)));
  return Uint8Array.from(one, (k, i) => table[k][other[i]]);
};

const draw = () => {
  if (!found) return;
  layers = models.map((_, side) => layer(side));
  compose();
};
// Each model on its side of the divider.
const compose = () => {
  const [h, w] = found.size, over = $("over"), divided = two() && view() !== "difference";
  over.width = w;
  over.height = h;
  const pen = over.getContext("2d"), edge = divided ? (split / 100) * w : w;
  layers.forEach(({ canvas, reach }, side) => {
    pen.save();
    pen.beginPath();
    pen.rect(side ? edge : 0, 0, side ? w - edge : edge, h);
    pen.clip();
    pen.drawImage(canvas, 0, 0, reach[1] * w, reach[0] * h);
    pen.restore();
  });
  for (const id of ["divider", "left", "right"]) $(id).hidden = !divided;
  $("which").hidden = !(view() === "look" && looks.some((look) => look && look.names.length > 1));
};
const divide = (where) => {
  split = Math.min(100, Math.max(0, where));
  const shown = Math.round(split);
  $("divider").style.left = `${split}%`;
  $("divider").setAttribute("aria-valuenow", shown);
  $("divider").setAttribute("aria-valuetext", `A on the left ${shown} %, B on the right ${100 - shown} %`);
  // Each name stays on its side.
  for (const [id, share] of [["left", split], ["right", 100 - split]])
    $(id).style.maxWidth = `max(0px, min(44%, ${share}% - 1.6rem))`;
  if (found) compose();
};

const say = () => {
  const [y, x] = point, i = y * found.size[1] + x;
  const says = models.map((_, side) => {
    const sure = Math.round((100 * found.found[side].confidence[i]) / 255);
    return `${two() ? `${LETTERS[side]} says ` : ""}${called(side, i)}, ${sure} % sure`;
  });
  looks.forEach((look, side) => {
    const whose = two() ? `${LETTERS[side]}'s ` : "";
    if (look) says.push(`${whose}${look.name} attends most to row ${look.peak[0]}, column ${look.peak[1]}`);
  });
  $("said").textContent = `row ${y}, column ${x}: ${says.join("; ")}`;
};

const attended = async (side) => {
  const [h, w] = found.size;
  const asks = { number: found.number, y: point[0], x: point[1], name: names[side] || "", model: side };
  const got = await ask(`look?${new URLSearchParams(asks)}`);
  got.map = await values(got.map);
  const best = got.map.indexOf(Math.max(...got.map)), [rows, columns] = got.cells;
  const at = (place, n, share, size) => Math.min(size - 1, Math.floor(((place + 0.5) * share * size) / n));
  got.peak = [at(Math.floor(best / columns), rows, got.reach[0], h), at(best % columns, columns, got.reach[1], w)];
  return got;
};
const choose = guarded(async (y, x) => {
  const mine = ++asked, [h, w] = found.size;
  point = [Math.min(h - 1, Math.max(0, y)), Math.min(w - 1, Math.max(0, x))];
  $("mark").hidden = false;
  $("mark").style.top = `${(100 * (point[0] + 0.5)) / h}%`;
  $("mark").style.left = `${(100 * (point[1] + 0.5)) / w}%`;
  looks = [];
  say();
  $("busy").textContent = "looking; the first point of a picture takes longer";
  const outcomes = await Promise.allSettled(models.map((_, side) => attended(side)));
  // Another point or picture may have been chosen meanwhile.
  if (mine !== asked) return;
  looks = outcomes.map((outcome) => outcome.value);
  $("which").replaceChildren(...looks.flatMap((look, side) => {
    if (!look) return [];
    const label = made("label", "", two() ? `of ${LETTERS[side]} ` : "of "), select = document.createElement("select");
    select.append(...look.names.map((name) => new Option(name, name, false, name === look.name)));
    select.addEventListener("change", () => { names[side] = select.value; choose(...point); });
    label.append(select, " ");
    return [label];
  }));
  say();
  if (looks.some(Boolean)) document.querySelector("[value=look]").checked = true;
  draw();
  const failed = outcomes.flatMap(({ reason }, side) => {
    return reason ? [`${two() ? `${LETTERS[side]}: ` : ""}${reason.message}`] : [];
  });
  if (failed.length) throw new Error(failed.join("; "));
});

// A class of the legend: its name, its share in each model; none where a model does not know it.
const entry = (name, shares) => {
  const item = document.createElement("li"), button = document.createElement("button");
  const swatch = made("span", "swatch"), said = shares.map((share) => (share === undefined ? "–" : percent(share)));
  swatch.style.background = `rgb(${colour(name)})`;
  button.append(swatch, made("span", "name", name), ...said.map((text) => made("span", "share", text)));
  if (two()) {
    const words = shares.map((share) => (share === undefined ? "not known to" : `${percent(share)} with`));
    button.setAttribute("aria-label", `${name}: ${words.map((text, side) => `${text} ${LETTERS[side]}`).join(", ")}`);
  }
  const only = (which) => () => { alone = which; draw(); };
  for (const kind of ["mouseenter", "focus"]) button.addEventListener(kind, only(name));
  for (const kind of ["mouseleave", "blur"]) button.addEventListener(kind, only(null));
  item.append(button);
  return item;
};
const legend = () => {
  const shares = new Map();
  found.found.forEach((one, side) => models[side].classes.forEach(({ name }, k) => {
    if (!shares.has(name)) shares.set(name, models.map(() => undefined));
    shares.get(name)[side] = one.shares[k];
  }));
  const most = (name) => Math.max(...shares.get(name).map((share) => share || 0));
  const order = [...shares.keys()].filter(most).sort((a, b) => most(b) - most(a));
  const head = made("li", "head");
  head.ariaHidden = "true";
  head.append(made("span", "name"), ...LETTERS.map((letter) => made("span", "share", letter)));
  return [...(two() ? [head] : []), ...order.map((name) => entry(name, shares.get(name)))];
};

const take = guarded(async (file) => {
  const mine = ++asked;
  $("busy").textContent = "predicting; the first picture of a size takes longer";
  const got = await ask("predict", { method: "POST", body: file });
  for (const one of got.found)
    [one.mask, one.confidence] = await Promise.all([values(one.mask), values(one.confidence)]);
  if (mine !== asked) return;
  found = got;
  looks = [];
  alone = null;
  $("mark").hidden = true;
  const says = got.found.map((one, side) => {
    return `${two() ? `${LETTERS[side]} is ` : ""}on average ${Math.round(100 * one.mean_confidence)} % sure`;
  });
  if (two() && alike())
    says.push(`they differ in ${percent(mean(differing()))} of the pixels`);
  $("said").textContent = says.join("; ");
  URL.revokeObjectURL($("input").src);
  $("input").src = URL.createObjectURL(file);
  $("result").hidden = false;
  document.querySelector("[value=mask]").checked = true;
  $("classes").replaceChildren(...legend());
  draw();
});

$("file").addEventListener("change", () => $("file").files.length && take($("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
$("stage").addEventListener("click", (event) => {
  const box = $("stage").getBoundingClientRect(), [h, w] = found.size;
  const row = ((event.clientY - box.top) / box.height) * h, column = ((event.clientX - box.left) / box.width) * w;
  choose(Math.floor(row), Math.floor(column));
});
$("stage").addEventListener("keydown", (event) => {
  const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!way) return;
  event.preventDefault();
  const step = Math.max(1, Math.round(Math.min(...found.size) / 40));
  choose(point[0] + step * way[0], point[1] + step * way[1]);
});
// The divider lies on the stage, which would take its clicks and keys for a point.
$("divider").addEventListener("click", (event) => event.stopPropagation());
$("divider").addEventListener("pointerdown", (event) => {
  event.preventDefault();
  $("divider").focus();
  $("divider").setPointerCapture(event.pointerId);
});
$("divider").addEventListener("pointermove", (event) => {
  if (!$("divider").hasPointerCapture(event.pointerId)) return;
  const box = $("stage").getBoundingClientRect();
  divide((100 * (event.clientX - box.left)) / box.width);
});
$("divider").addEventListener("keydown", (event) => {
  event.stopPropagation();
  const far = { PageDown: -10, PageUp: 10, Home: -100, End: 100 };
  const steps = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, ...far };
  if (!(event.key in steps)) return;
  event.preventDefault();
  divide(split + steps[event.key]);
});
for (const control of document.querySelectorAll("[name=view], #opacity")) control.addEventListener("input", draw);
guarded(async () => {
  models = await ask("models");
  const title = models.map((model, side) => (two() ? `${LETTERS[side]}: ${model.name}` : model.name));
  $("title").textContent = title.join(" · ");
  $("differing").hidden = !two() || !alike();
  $("result").classList.toggle("two", two());
  if (two()) ["left", "right"].forEach((id, side) => { $(id).textContent = title[side]; });
  divide(split);
})();
