// Heat maps: the colours run from dark violet over orange to light yellow, so they also differ in lightness.

const COLOURS = [
  [40, 11, 84],
  [101, 21, 110],
  [159, 42, 99],
  [212, 72, 66],
  [245, 125, 21],
  [250, 193, 39],
  [252, 255, 164],
];

function colourOf(value) {
  const place = Math.max(0, Math.min(value, 1)) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((part, at) => Math.round(part + (place - low) * (COLOURS[low + 1][at] - part)));
}

/** Paints one word's weights, numbers from 0 to 1 in reading order, as a grid over the whole canvas. */
export function paintHeat(canvas, weights, rows, columns) {
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width / columns, canvas.height / rows];
  context.clearRect(0, 0, canvas.width, canvas.height);
  weights.forEach((weight, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    // Whole pixels, or the seams between cells would shine through.
    const [x, y] = [Math.round(column * width), Math.round(row * height)];
    // Little attention leaves the picture visible.
    context.fillStyle = `rgb(${colourOf(weight).join(" ")} / ${30 + 35 * weight}%)`;
    context.fillRect(x, y, Math.round((column + 1) * width) - x, Math.round((row + 1) * height) - y);
  });
  const top = weights.indexOf(Math.max(...weights));
  context.lineWidth = Math.max(2, canvas.width / 160);
  context.strokeStyle = "white";
  context.strokeRect((top % columns) * width, Math.floor(top / columns) * height, width, height);
}

/** Paints the scale of the colours from 0 to 1. */
export function paintLegend(canvas) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    context.fillStyle = `rgb(${colourOf(x / (canvas.width - 1)).join(" ")})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
