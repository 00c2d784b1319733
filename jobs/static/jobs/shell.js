// What all pages share: the theme, the menu, dialogs, copying, the connection's strip, announcements.

import { Kabar } from "../notifications/kabar.js";
import { say, sayDuration } from "./texts.js";

const YEAR_SECONDS = 31_536_000;
const SHAPES = { live: "live", polling: "poll", reconnecting: "again", closed: "no" };
const QUIET_MS = 2_000; // a break that is over by then is nobody's concern
const COPIED_MS = 2_000;

export function startShell() {
  keepTheme();
  closeMenus();
  openDialogs();
  offerCopies();
  document.getElementById("faults")?.focus();
}

/** Say something to a screen reader, once. */
export function announce(text) {
  document.querySelector("[data-announce]").textContent = text;
}

/** Draw one of the page's symbols. */
export function drawIcon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "i");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Connect to Kabar, and show in the dateline how news comes. */
export function connect(onLive = () => {}) {
  const strip = document.querySelector("[data-conn]");
  let timer = null;
  return new Kabar({
    onConnection({ state, retryAt }) {
      clearTimeout(timer);
      const show = () => showConnection(strip, state, retryAt);
      if (state === "reconnecting") timer = setTimeout(show, strip.hidden ? 0 : QUIET_MS);
      else if (state !== "idle") show();
      if (state === "live") onLive();
    },
  });
}

function showConnection(strip, state, retryAt) {
  const shape = SHAPES[state];
  const left = retryAt ? Math.ceil((retryAt - Date.now()) / 1000) : 0;
  const words = {
    live: say("live"),
    polling: say("polling"),
    closed: say("offline"),
    reconnecting: left > 0 ? say("reconnectingIn", sayDuration(left)) : say("reconnecting"),
  };
  strip.className = `conn ${shape}`;
  strip.dataset.conn = state;
  strip.querySelector("use").setAttribute("href", `#i-${shape}`);
  strip.querySelector("svg").classList.toggle("spin", state === "reconnecting");
  strip.querySelector("[data-conn-word]").textContent = words[state];
  strip.hidden = false;
}

function keepTheme() {
  document.querySelector("[data-theme-form]").addEventListener("change", ({ target }) => {
    const secure = location.protocol === "https:" ? "; secure" : "";
    document.cookie = `theme=${target.value}; path=/; max-age=${YEAR_SECONDS}; samesite=lax${secure}`;
    document.documentElement.dataset.theme = target.value;
  });
}

function closeMenus() {
  const menu = document.querySelector(".menu");
  if (!menu) return;
  document.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("click", ({ target }) => {
    if (!menu.contains(target)) menu.open = false;
  });
}

/** Do what `command` and `commandfor` say where the browser doesn't yet. */
function openDialogs() {
  if ("commandForElement" in HTMLButtonElement.prototype) return;
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("button[commandfor]");
    const dialog = button && document.getElementById(button.getAttribute("commandfor"));
    if (!dialog) return;
    if (button.getAttribute("command") === "show-modal") dialog.showModal();
    else dialog.close();
  });
}

function offerCopies() {
  if (!navigator.clipboard) return; // browsers have it on https and on this machine only
  document.documentElement.classList.add("can-copy");
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest?.("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    const word = button.querySelector("span");
    const before = word.textContent;
    word.textContent = say("copied");
    announce(say("copied"));
    setTimeout(() => (word.textContent = before), COPIED_MS);
  });
}
