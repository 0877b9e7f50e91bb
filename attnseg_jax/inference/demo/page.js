"use strict";
const $ = (id) => document.getElementById(id);
const heat = (v) => [40 + 215 * v, 10 + 210 * v * v, 120 - 100 * v];
let model, found, look, alone = -1, point = [0, 0], asked = 0;

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

const draw = () => {
  if (!found) return;
  const [h, w] = found.size, over = $("over"), strength = 255 * $("opacity").value, shown = view();
  const [rows, columns] = shown === "look" && look ? look.cells : [h, w];
  const data = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    let colour = null;
    if (shown === "mask") {
      const k = found.mask[i];
      if (alone < 0 || k === alone) colour = model.classes[k].colour;
    } else if (shown === "confidence") colour = heat(found.confidence[i] / 255);
    else if (look) colour = heat(look.map[i] / 255);
    const light = shown === "look" && look ? 0.3 + (0.7 * look.map[i]) / 255 : 1;
    data.data.set(colour ? [...colour, strength * light] : alone >= 0 ? [0, 0, 0, 150] : [0, 0, 0, 0], 4 * i);
  }
  const tile = new OffscreenCanvas(columns, rows);
  tile.getContext("2d").putImageData(data, 0, 0);
  over.width = w;
  over.height = h;
  const reach = shown === "look" && look ? look.reach : [1, 1];
  over.getContext("2d").drawImage(tile, 0, 0, reach[1] * w, reach[0] * h);
  $("which").hidden = !(shown === "look" && look && look.names.length > 1);
};

const say = () => {
  const [y, x] = point, i = y * found.size[1] + x;
  const most = look && `; ${look.name} attends most to row ${look.peak[0]}, column ${look.peak[1]}`;
  const sure = Math.round((100 * found.confidence[i]) / 255);
  $("said").textContent = `row ${y}, column ${x}: ${model.classes[found.mask[i]].name}, ${sure} % sure${most || ""}`;
};

const choose = guarded(async (y, x) => {
  const mine = ++asked, [h, w] = found.size;
  point = [Math.min(h - 1, Math.max(0, y)), Math.min(w - 1, Math.max(0, x))];
  $("mark").hidden = false;
  $("mark").style.top = `${(100 * (point[0] + 0.5)) / h}%`;
  $("mark").style.left = `${(100 * (point[1] + 0.5)) / w}%`;
  look = null;
  say();
  const query = new URLSearchParams({ number: found.number, y: point[0], x: point[1], name: $("names").value });
  const got = await ask(`look?${query}`);
  got.map = await values(got.map);
  // Another point may have been chosen meanwhile.
  if (mine !== asked) return;
  const best = got.map.indexOf(Math.max(...got.map)), [rows, columns] = got.cells;
  const at = (place, n, share, size) => Math.min(size - 1, Math.floor(((place + 0.5) * share * size) / n));
  got.peak = [at(Math.floor(best / columns), rows, got.reach[0], h), at(best % columns, columns, got.reach[1], w)];
  look = got;
  $("names").replaceChildren(...got.names.map((name) => new Option(name, name, false, name === got.name)));
  document.querySelector("[value=look]").checked = true;
  say();
  draw();
});

const take = guarded(async (file) => {
  $("busy").textContent = "predicting; the first picture of a size takes longer";
  const got = await ask("predict", { method: "POST", body: file });
  [got.mask, got.confidence] = await Promise.all([values(got.mask), values(got.confidence)]);
  found = got;
  look = null;
  alone = -1;
  $("mark").hidden = true;
  $("said").textContent = `on average ${Math.round(100 * got.mean_confidence)} % sure`;
  $("input").src = URL.createObjectURL(file);
  $("result").hidden = false;
  document.querySelector("[value=mask]").checked = true;
  const order = got.shares.map((_, k) => k).filter((k) => got.shares[k]).sort((a, b) => got.shares[b] - got.shares[a]);
  $("classes").replaceChildren(...order.map((k) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const [swatch, name, share] = ["swatch", "name", "share"].map((kind) => {
      const part = document.createElement("span");
      part.className = kind;
      return part;
    });
    swatch.style.background = `rgb(${model.classes[k].colour})`;
    name.textContent = model.classes[k].name;
    share.textContent = `${(100 * got.shares[k]).toFixed(1)} %`;
    button.append(swatch, name, share);
    const only = (which) => () => { alone = which; draw(); };
    for (const kind of ["mouseenter", "focus"]) button.addEventListener(kind, only(k));
    for (const kind of ["mouseleave", "blur"]) button.addEventListener(kind, only(-1));
    item.append(button);
    return item;
  }));
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
for (const control of document.querySelectorAll("[name=view], #opacity")) control.addEventListener("input", draw);
$("names").addEventListener("change", () => choose(...point));
guarded(async () => {
  model = await ask("model");
  $("title").textContent = model.name;
})();
