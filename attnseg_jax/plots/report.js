"use strict";
// What a point attends to: each stage draws the map of the nearest point over the image.
const classes = JSON.parse(document.getElementById("classes").textContent);
const name = (k) => (k === 255 ? "unknown" : classes[k]);
// Dark violet to yellow; nothing where there is no weight.
const colour = (v) => [40 + 215 * v, 10 + 210 * v * v, 120 - 100 * v, 60 + 170 * v];

for (const section of document.querySelectorAll("section.explained")) {
  const source = section.querySelector(".look-data");
  if (!source) continue;
  const data = JSON.parse(source.textContent);
  const figure = section.querySelector(".look"), stage = figure.querySelector(".stage");
  const [image, canvas, mark] = stage.children;
  const select = figure.querySelector("select"), output = figure.querySelector("output");
  const maps = data.records.map((record) => {
    const atlas = new Image();
    atlas.src = record.atlas;
    select.add(new Option(record.name));
    return atlas;
  });
  let row = data.rows >> 1, column = data.columns >> 1;

  const draw = async () => {
    const record = data.records[select.selectedIndex], atlas = maps[select.selectedIndex];
    const [h, w] = record.cells, chosen = [row, column, select.selectedIndex].join();
    await atlas.decode();
    // Another point may have been chosen meanwhile.
    if (chosen !== [row, column, select.selectedIndex].join()) return;
    const tile = new OffscreenCanvas(w, h), pen = tile.getContext("2d");
    pen.drawImage(atlas, column * w, row * h, w, h, 0, 0, w, h);
    const pixels = pen.getImageData(0, 0, w, h);
    let best = 0;
    for (let i = 0; i < w * h; i++) {
      const value = pixels.data[4 * i];
      if (value > pixels.data[4 * best + 0] || i === 0) best = i;
    }
    const peak = [Math.floor(best / w), best % w];
    for (let i = 0; i < w * h; i++) pixels.data.set(colour(pixels.data[4 * i] / 255), 4 * i);
    pen.putImageData(pixels, 0, 0);
    canvas.width = 480;
    canvas.height = Math.round((480 * data.size[0]) / data.size[1]);
    const [down, across] = record.reach;
    canvas.getContext("2d").drawImage(tile, 0, 0, across * canvas.width, down * canvas.height);
    mark.style.top = `${(100 * (row + 0.5)) / data.rows}%`;
    mark.style.left = `${(100 * (column + 0.5)) / data.columns}%`;
    const i = row * data.columns + column;
    const y = Math.floor(((row + 0.5) * data.size[0]) / data.rows);
    const x = Math.floor(((column + 0.5) * data.size[1]) / data.columns);
    const at = (place, size, share, n) => Math.min(size - 1, Math.round(((place + 0.5) * share * size) / n));
    output.textContent =
      `at row ${y}, column ${x}: true ${name(data.truth[i])}, predicted ${name(data.predicted[i])}, ` +
      `${data.sure[i]} % sure; attends most to row ${at(peak[0], data.size[0], down, h)}, ` +
      `column ${at(peak[1], data.size[1], across, w)}`;
  };
  const choose = (event, element) => {
    const box = element.getBoundingClientRect();
    const at = (value, n) => Math.min(n - 1, Math.max(0, Math.floor(value * n)));
    row = at((event.clientY - box.top) / box.height, data.rows);
    column = at((event.clientX - box.left) / box.width, data.columns);
    draw();
  };
  const keys = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  stage.addEventListener("keydown", (event) => {
    const step = keys[event.key];
    if (!step) return;
    event.preventDefault();
    row = Math.min(data.rows - 1, Math.max(0, row + step[0]));
    column = Math.min(data.columns - 1, Math.max(0, column + step[1]));
    draw();
  });
  for (const shown of section.querySelectorAll(".panels img, .stage canvas"))
    shown.addEventListener("click", (event) => choose(event, shown));
  select.addEventListener("change", draw);
  image.src = section.querySelector(".panels img").src;
  select.parentElement.hidden = data.records.length < 2;
  figure.hidden = false;
  draw();
}
