// Prepares an image as speedtrain does in training, and asks the network what it shows.

const byId = id => document.getElementById(id);

async function unpack(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Pillow's bicubic filter with antialiasing: for each output position, the first input position and its weights in
// 22 bits, as Pillow computes them.
const BITS = 22;
function weights(inputs, outputs) {
  const cubic = x => {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  };
  const scale = inputs / outputs, stretch = Math.max(scale, 1), support = 2 * stretch;
  return Array.from({length: outputs}, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(inputs, Math.floor(centre + support + 0.5));
    const shares = [];
    for (let x = first; x < last; x++) shares.push(cubic((x - centre + 0.5) / stretch));
    const total = shares.reduce((sum, share) => sum + share, 0);
    return [first, shares.map(share => {
      const scaled = (share / total) * (1 << BITS);
      return Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    })];
  });
}

const clip = sum => Math.max(0, Math.min(255, Math.floor((sum + (1 << (BITS - 1))) / (1 << BITS))));

// An image, resampled to width × height: first along the rows, then along the columns.
function resample(image, width, height) {
  const across = weights(image.width, width), down = weights(image.height, height);
  const rows = new Uint8Array(image.height * width * 3), rgb = new Uint8Array(height * width * 3);
  for (let y = 0; y < image.height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) {
        const [first, shares] = across[x];
        let sum = 0;
        for (let i = 0; i < shares.length; i++) sum += shares[i] * image.rgb[(y * image.width + first + i) * 3 + c];
        rows[(y * width + x) * 3 + c] = clip(sum);
      }
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) {
        const [first, shares] = down[y];
        let sum = 0;
        for (let i = 0; i < shares.length; i++) sum += shares[i] * rows[((first + i) * width + x) * 3 + c];
        rgb[(y * width + x) * 3 + c] = clip(sum);
      }
  return {rgb, width, height};
}

// The centred square of an image. It is cut out first: what lies outside has no part in the edges.
function centred(image) {
  const side = Math.min(image.width, image.height);
  const left = Math.floor((image.width - side) / 2), top = Math.floor((image.height - side) / 2);
  const rgb = new Uint8Array(side * side * 3);
  for (let y = 0; y < side; y++) {
    const from = ((top + y) * image.width + left) * 3;
    rgb.set(image.rgb.subarray(from, from + side * 3), y * side * 3);
  }
  return {rgb, width: side, height: side};
}

// Python's rounding: halves go to the even number.
function round(x) {
  const down = Math.floor(x);
  return x - down === 0.5 ? down + (down % 2) : Math.round(x);
}

// side × side pixels of an image, as `fit` says: crop, pad or squash.
function fitted(image, side, fit) {
  const {width, height} = image;
  if (fit === "crop") return resample(centred(image), side, side).rgb;
  if (fit === "squash" || width === height) return resample(image, side, side).rgb;
  const scale = side / Math.max(width, height);
  const small = resample(image, Math.max(1, round(width * scale)), Math.max(1, round(height * scale)));
  const mean = [0, 1, 2].map(c => {
    let sum = 0;
    for (let i = c; i < small.rgb.length; i += 3) sum += small.rgb[i];
    return round(sum / (small.rgb.length / 3));
  });
  const rgb = new Uint8Array(side * side * 3).map((_, i) => mean[i % 3]);
  const left = Math.floor((side - small.width) / 2), top = Math.floor((side - small.height) / 2);
  for (let y = 0; y < small.height; y++)
    rgb.set(small.rgb.subarray(y * small.width * 3, (y + 1) * small.width * 3), ((top + y) * side + left) * 3);
  return rgb;
}

const LARGEST = 16e6;

// The pixels of a file: upright, without a colour profile, transparent parts on white.
async function decoded(file) {
  const bitmap = await createImageBitmap(file, {
    imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
  });
  // some phones give an empty canvas beyond so many pixels: larger photographs are drawn smaller
  const factor = Math.max(1, Math.sqrt((bitmap.width * bitmap.height) / LARGEST));
  const width = Math.floor(bitmap.width / factor), height = Math.floor(bitmap.height / factor);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4)
    for (let c = 0; c < 3; c++) rgb[to++] = Math.round((rgba[from + c] * rgba[from + 3]) / 255 + 255 - rgba[from + 3]);
  return {rgb, width, height};
}

function show(rgb, side, answer) {
  const canvas = byId("shown"), context = canvas.getContext("2d");
  canvas.width = canvas.height = side;
  const pixels = context.createImageData(side, side);
  for (let i = 0; i < side * side; i++) pixels.data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
  context.putImageData(pixels, 0, 0);
  canvas.hidden = false;
  byId("answer").replaceChildren(...answer.slice(0, 5).map(([name, probability]) => {
    const row = document.createElement("li"), words = document.createElement("span");
    const share = document.createElement("span"), bar = document.createElement("meter");
    words.textContent = name;
    share.textContent = `${(100 * probability).toFixed(1)} %`;
    bar.value = probability;
    bar.setAttribute("aria-hidden", "true");
    row.dataset.probability = probability;
    row.append(words, share, bar);
    return row;
  }));
}

function clear() {
  byId("shown").hidden = true;
  byId("answer").replaceChildren();
}

const status = text => { byId("status").textContent = text; };

// Set where the network is ready. Until then a photograph that is dropped must not replace the page.
let ask = (file, name) => status(`${name}: still loading …`);

// The page shows one image: the first of the files.
function take(files) {
  if (files.length === 1) ask(files[0], files[0].name);
  if (files.length > 1) ask(files[0], `${files[0].name} (the first of ${files.length} files)`);
}

const drop = byId("drop"), input = byId("file");
input.addEventListener("change", () => take(input.files));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });

async function start() {
  const facts = JSON.parse(new TextDecoder().decode(await unpack("facts")));
  const ort = await import(URL.createObjectURL(new Blob([await unpack("runtime")], {type: "text/javascript"})));
  ort.env.wasm.numThreads = 1;  // several need headers that a file on a disk does not have
  ort.env.wasm.wasmBinary = await unpack("binary");
  const session = await ort.InferenceSession.create(await unpack("network"), {executionProviders: ["wasm"]});

  async function answer(file, name) {
    status(`looking at ${name} …`);
    try {
      const rgb = fitted(await decoded(file), facts.side, facts.fit);
      const images = new ort.Tensor("uint8", rgb, [1, facts.side, facts.side, 3]);
      const {probabilities} = await session.run({images});
      const pairs = facts.classes.map((label, i) => [label, probabilities.data[i]]).sort((a, b) => b[1] - a[1]);
      show(rgb, facts.side, pairs);
      status(`${name}: ${pairs[0][0]}`);
    } catch (error) {
      clear();
      status(`${name} cannot be read as an image (${error.message ?? error})`);
    }
  }

  ask = answer;
  status("ready");
}

start().catch(error => status(`this browser cannot run the network (${error.message ?? error})`));
