"use strict";

const MOST = 50; // pictures that stay on the page
const LANES = 4; // requests at a time
const TOP = 5;
const drop = document.getElementById("drop");
const pick = document.getElementById("pick");
const status = document.getElementById("status");
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
  const taken = [...files];
  for (const file of taken) waiting.push({ file, card: card(file) });
  if (taken.length) say("");
  while (lanes < LANES && waiting.length > 0) run();
}

async function run() {
  const { file, card } = waiting.shift();
  lanes += 1;
  try {
    show(card, await ask(file));
  } catch (error) {
    fail(card, error.message);
  }
  lanes -= 1;
  if (waiting.length) run();
}

async function ask(file) {
  const form = new FormData();
  form.append("picture", file);
  let answer, values;
  try {
    answer = await fetch(`predict?top=${TOP}`, { method: "POST", body: form });
    values = await answer.json();
  } catch {
    throw new Error("The service does not answer, or the picture is too large for it.");
  }
  const found = (values.files || [])[0] || {};
  if (found.problem || !answer.ok) throw new Error(found.problem || values.error);
  return found;
}

function card(file) {
  const made = copy("answer");
  const image = made.querySelector("img");
  image.src = URL.createObjectURL(file);
  image.alt = `The picture ${file.name}`;
  image.addEventListener("error", () => made.classList.add("bare"));
  made.querySelector(".name").textContent = file.name;
  made.querySelector("h2").textContent = "Looking …";
  made.classList.add("waiting");
  answers.prepend(made);
  while (answers.childElementCount > MOST) {
    URL.revokeObjectURL(answers.lastElementChild.querySelector("img").src);
    answers.lastElementChild.remove();
  }
  return made;
}

function show(card, found) {
  const { decision, predictions } = found;
  const title = decision === null ? "Uncertain" : decision;
  card.classList.remove("waiting");
  card.querySelector("h2").textContent = title;
  card.querySelector(".note").textContent =
    decision === null ? "No label is likely enough." : "";
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

function fail(card, message) {
  card.classList.replace("waiting", "failed");
  card.querySelector("h2").textContent = message[0].toUpperCase() + message.slice(1);
  say(`${card.querySelector(".name").textContent}: ${message}`);
}

// Read out; shown only where no card says it.
function say(text, shown = false) {
  status.textContent = text;
  status.classList.toggle("shown", shown);
}

async function greet() {
  try {
    const about = await (await fetch("healthz")).json();
    if (about.status === "ready") {
      const count = about.classes.length;
      const labels = count > 6 ? `${count} labels` : about.classes.join(", ");
      document.getElementById("model").textContent = `${about.run} · ${about.model} · ${labels}`;
      return say("");
    }
    say(`The service is ${about.status} …`, true);
  } catch {
    say("The service does not answer.", true);
  }
  setTimeout(greet, 1000);
}

pick.addEventListener("change", () => {
  take(pick.files);
  pick.value = ""; // the same picture may be chosen again
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
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
greet();
