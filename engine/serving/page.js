"use strict";

const MOST = 50; // images that stay on the page
const LANES = 4; // requests at a time
const PATIENCE = 60_000; // milliseconds that a service may have too much to do
const TOP = 5;
const drop = document.getElementById("drop");
const pick = document.getElementById("pick");
const answers = document.getElementById("answers");
const waiting = [];
let lanes = 0;

const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });

// Nothing is certain, and nothing impossible.
function inWords(probability) {
  if (probability >= 0.9995) return "> 99.9%";
  return probability < 0.0005 ? "< 0.1%" : percent.format(probability);
}

function copy(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

function take(files) {
  if (!files.length) return;
  const taken = [...files].slice(0, MOST).map((file) => ({ file, card: card(file) }));
  answers.prepend(...taken.map(({ card }) => card));
  while (answers.childElementCount > MOST) forget(answers.lastElementChild);
  waiting.push(...taken);
  const left = files.length - taken.length;
  notify(left ? `The first ${MOST} were taken; the other ${left} are too many at a time.` : "");
  while (lanes < LANES && waiting.length > 0) run();
}

async function run() {
  lanes += 1;
  while (waiting.length) {
    const { file, card } = waiting.shift();
    if (!card.isConnected) continue; // newer ones have taken its place
    try {
      show(card, await ask(file));
    } catch (error) {
      fail(card, error.message);
    }
  }
  lanes -= 1;
}

// A service that is loading, or has too much to do, is asked again.
async function ask(file) {
  for (const ends = Date.now() + PATIENCE; ; await pause(1000)) {
    const { answer, values } = await send(file);
    const found = (values.files || [])[0] || {};
    if (answer.ok && !found.problem) return found;
    if (answer.status !== 503 || Date.now() > ends) {
      throw new Error(found.problem || values.error || `the service answered ${answer.status}`);
    }
  }
}

async function send(file) {
  const form = new FormData();
  form.append("image", file);
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error("It can't be read; a folder can't be taken.");
  }
  try {
    const answer = await fetch(`predict?top=${TOP}`, { method: "POST", body: form });
    return { answer, values: await answer.json() };
  } catch {
    throw new Error("The service does not answer, or the image is too large for it.");
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function card(file) {
  const made = copy("answer");
  const image = made.querySelector("img");
  image.src = URL.createObjectURL(file);
  image.alt = `The image ${file.name}`;
  image.addEventListener("error", () => made.classList.add("bare"));
  made.querySelector(".name").textContent = file.name;
  made.querySelector("h2").textContent = "Looking …";
  made.classList.add("waiting");
  return made;
}

function forget(card) {
  URL.revokeObjectURL(card.querySelector("img").src);
  card.remove();
}

function show(card, found) {
  const { decision, predictions } = found;
  const title = decision === null ? "Uncertain" : decision;
  card.classList.remove("waiting");
  card.querySelector("h2").textContent = title;
  card.querySelector(".note").textContent = note(decision, predictions);
  for (const { label, probability } of predictions) {
    const row = copy("row");
    row.classList.toggle("chosen", label === decision);
    row.querySelector(".label").textContent = label;
    row.querySelector(".share").textContent = inWords(probability);
    row.querySelector("i").style.width = `${100 * probability}%`;
    card.querySelector("ol").append(row);
  }
  say(`${card.querySelector(".name").textContent}: ${title}`);
}

function note(decision, predictions) {
  if (decision === null) return "No label is likely enough.";
  return decision === predictions[0].label ? "" : "Not the likeliest: the model's threshold decides.";
}

function fail(card, message) {
  card.classList.replace("waiting", "failed");
  card.querySelector("h2").textContent = message[0].toUpperCase() + message.slice(1);
  say(`${card.querySelector(".name").textContent}: ${message}`);
}

// Read out only; the cards show it.
function say(text) {
  document.getElementById("said").textContent = text;
}

// Of no card.
function notify(text) {
  document.getElementById("notice").textContent = text;
}

async function greet() {
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
    notify("The service does not answer.");
  }
  setTimeout(greet, 1000);
}

pick.addEventListener("change", () => {
  take(pick.files);
  pick.value = ""; // the same image may be chosen again
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
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else notify("That was no file; save the image, and drop or choose it then.");
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
greet();
