"use strict";

const MAX_CARDS = 50; // images on the page
const MAX_REQUESTS = 4; // at a time
const RETRY_MS = 60_000; // while the service is loading or overloaded
const TOP_K = 5;
const drop = document.getElementById("drop");
const pick = document.getElementById("pick");
const cards = document.getElementById("cards");
const queue = [];
let requests = 0;

const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });

// Never shows 0 % or 100 %.
function formatProbability(probability) {
  if (probability >= 0.9995) return "> 99.9%";
  return probability < 0.0005 ? "< 0.1%" : percent.format(probability);
}

function copy(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

function addFiles(files) {
  if (!files.length) return;
  const added = [...files].slice(0, MAX_CARDS).map((file) => ({ file, card: makeCard(file) }));
  cards.prepend(...added.map(({ card }) => card));
  while (cards.childElementCount > MAX_CARDS) removeCard(cards.lastElementChild);
  queue.push(...added);
  const omitted = files.length - added.length;
  notify(omitted ? `Only the first ${MAX_CARDS} images are shown; ${omitted} more were skipped.` : "");
  while (requests < MAX_REQUESTS && queue.length > 0) run();
}

async function run() {
  requests += 1;
  while (queue.length) {
    const { file, card } = queue.shift();
    if (!card.isConnected) continue; // replaced by newer images
    try {
      show(card, await predict(file));
    } catch (error) {
      fail(card, error.message);
    }
  }
  requests -= 1;
}

// Retries while the service is loading or overloaded.
async function predict(file) {
  for (const deadline = Date.now() + RETRY_MS; ; await pause(1000)) {
    const { response, values } = await send(file);
    const result = (values.files || [])[0] || {};
    if (response.ok && !result.problem) return result;
    if (response.status !== 503 || Date.now() > deadline) {
      throw new Error(result.problem || values.error || `the service returned status ${response.status}`);
    }
  }
}

async function send(file) {
  const form = new FormData();
  form.append("image", file);
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error("The file can't be read; folders are not supported.");
  }
  try {
    const response = await fetch(`predict?top_k=${TOP_K}`, { method: "POST", body: form });
    return { response, values: await response.json() };
  } catch {
    throw new Error("The service does not respond, or the image is too large.");
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function makeCard(file) {
  const card = copy("card");
  const image = card.querySelector("img");
  image.src = URL.createObjectURL(file);
  image.alt = `The image ${file.name}`;
  image.addEventListener("error", () => card.classList.add("bare"));
  card.querySelector(".name").textContent = file.name;
  card.querySelector("h2").textContent = "Predicting …";
  card.classList.add("waiting");
  return card;
}

function removeCard(card) {
  URL.revokeObjectURL(card.querySelector("img").src);
  card.remove();
}

function show(card, result) {
  const { decision, predictions } = result;
  const title = decision === null ? "Uncertain" : decision;
  card.classList.remove("waiting");
  card.querySelector("h2").textContent = title;
  card.querySelector(".note").textContent = note(decision, predictions);
  for (const { label, probability } of predictions) {
    const row = copy("row");
    row.classList.toggle("chosen", label === decision);
    row.querySelector(".label").textContent = label;
    row.querySelector(".share").textContent = formatProbability(probability);
    row.querySelector("i").style.width = `${100 * probability}%`;
    card.querySelector("ol").append(row);
  }
  announce(`${card.querySelector(".name").textContent}: ${title}`);
}

function note(decision, predictions) {
  if (decision === null) return "No label is likely enough.";
  return decision === predictions[0].label ? "" : "Not the most likely label: the model's threshold decides.";
}

function fail(card, message) {
  card.classList.replace("waiting", "failed");
  card.querySelector("h2").textContent = message[0].toUpperCase() + message.slice(1);
  announce(`${card.querySelector(".name").textContent}: ${message}`);
}

// For screen readers only; the cards show it.
function announce(text) {
  document.getElementById("announcement").textContent = text;
}

// About no single card.
function notify(text) {
  document.getElementById("notice").textContent = text;
}

async function showModel() {
  try {
    const about = await (await fetch("healthz")).json();
    if (about.status === "ready") {
      const count = about.classes.length;
      const labels = count > 6 ? `${count} labels` : about.classes.join(", ");
      document.getElementById("model").textContent = `${about.run} · ${about.model} · ${labels}`;
      return notify("");
    }
    notify(`The service is ${about.status} …`);
  } catch {
    notify("The service does not respond.");
  }
  setTimeout(showModel, 1000);
}

pick.addEventListener("change", () => {
  addFiles(pick.files);
  pick.value = ""; // so that the same image can be chosen again
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
  else notify("That is not a file; save the image, then drop or choose it.");
});
document.addEventListener("paste", (event) => addFiles(event.clipboardData.files));
showModel();
