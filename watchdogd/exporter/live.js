"use strict";
// Once a second the page is fetched again and its <main> put in place; all of it is rendered by the exporter.
const PERIOD_MS = 1000;
const GIVE_UP_MS = 5000;
const lost = document.getElementById("lost");
let updated = Date.now();

async function update() {
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(document.adoptNode(page.querySelector("main")));
    document.title = page.title;
    lost.hidden = true;
    updated = Date.now();
  } catch (error) {
    lost.textContent = `The exporter has not answered for ${Math.round((Date.now() - updated) / 1000)} s; this is old.`;
    lost.hidden = false;
    document.querySelector("main").classList.add("old");
    document.title = "? watchdogd";
  }
}

async function live() {
  // Not while somebody selects text, which a new <main> would take away.
  if (!document.hidden && getSelection().isCollapsed) await update();
  setTimeout(live, PERIOD_MS);
}

document.addEventListener("visibilitychange", () => document.hidden || update());
setTimeout(live, PERIOD_MS);
