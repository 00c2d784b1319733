// A job's page, live: progress and log lines are put in as they come; what changes the page's shape is rendered by the
// server and put in place.

import { read, remember, replace, throttled } from "./regions.js";
import { announce, connect, drawIcon } from "./shell.js";
import { say, sayDuration, sayNumber, sayState, sayTime } from "./texts.js";

const LOOK_MS = 500;
// The log tells neither of deliveries nor of places in line, so they are looked for, more and more seldom.
const UNTOLD_MS = [1_000, 2_000, 5_000, 10_000, 30_000];
const ANNOUNCE_MS = 10_000;
const ANNOUNCE_PERCENT = 10;

export function followJob(page) {
  const regions = () => page.querySelectorAll("[data-region]");
  remember([...regions(), document.querySelector('[data-region="brief"]')]);
  const heading = () => document.getElementById("job-h");
  const head = page.querySelector('[data-region="head"]').dataset;
  const heard = new Map(); // by sequence: the door by which this page had the event
  let newest = null; // the newest progress, to be shown again after the server's is put in
  let kabar = null;

  const look = throttled(async () => {
    const incoming = await read(location.href);
    if (!incoming) return;
    const version = Number(incoming.querySelector('[data-region="head"]').dataset.version);
    if (version < Number(page.querySelector('[data-region="head"]').dataset.version)) return;
    for (const standing of [...regions(), document.querySelector('[data-region="brief"]')]) {
      const region = incoming.querySelector(`[data-region="${standing.dataset.region}"]`);
      if (region && !standing.querySelector("dialog[open]")) replace(standing, region, heading());
    }
    document.title = incoming.title;
    if (newest && newest.version > version) showProgress(page, newest);
    showDoor(page, heard);
    lookForUntold();
  }, LOOK_MS);

  let looks = 0;
  let timer = null;
  const lookForUntold = () => {
    clearTimeout(timer);
    if (!page.querySelector("[data-open-delivery], [data-in-line]")) return;
    timer = setTimeout(look, UNTOLD_MS[Math.min(looks++, UNTOLD_MS.length - 1)]);
  };

  const tellProgress = progressTeller();
  kabar = connect(() => showDoor(page, heard));
  kabar.watch(page.dataset.liveJob, {
    after: Number(head.sequence),
    follow: true,
    onEvent: (event) => {
      const job = event.data;
      if (event.id === null) {
        newest = job;
        showProgress(page, job);
        tellProgress(job);
        return;
      }
      heard.set(event.sequence, kabar.connection === "live" ? "viaSocket" : "viaPoll");
      looks = 0;
      if (event.type === "job.log") {
        addLine(page, event);
        addRow(page, event);
        showDoor(page, heard);
        return;
      }
      newest = null;
      if (job.done) {
        document.title = `${sayState(job.status.toLowerCase())}: ${page.dataset.title} · Kabar`;
        announce(`${page.dataset.title}: ${sayState(job.status.toLowerCase())}`);
      }
    },
    onState: (job) => {
      // After each event, and after a break with what came of it; lines and progress have been shown already.
      const shown = page.querySelector('[data-region="head"]').dataset;
      const isSameTry = job.status === "RUNNING" && shown.status === "RUNNING" && job.attempt === Number(shown.attempt);
      if (isSameTry) showProgress(page, job);
      else if (job.version > Number(shown.version)) look();
    },
  });
  lookForUntold();
}

function showProgress(page, job) {
  const lead = page.querySelector('[data-region="lead"]');
  const bar = lead.querySelector("[data-bar]");
  if (!bar || !job.progress) return;
  const { percent, message, current, total } = job.progress;
  const whole = percent === null ? null : Math.floor(percent);
  if (whole === null) bar.removeAttribute("value");
  else bar.value = whole;
  lead.querySelector("[data-pct]").hidden = whole === null;
  lead.querySelector("[data-percent]").textContent = whole ?? "";
  lead.querySelector("[data-message]").textContent = job.cancelRequestedAt
    ? say("cancelling")
    : message || sayState("running");
  lead.querySelector("[data-count]").textContent =
    current === null ? "" : total === null ? sayNumber(current) : say("ofTotal", sayNumber(current), sayNumber(total));
  const left = job.estimatedFinishAt ? (Date.parse(job.estimatedFinishAt) - Date.now()) / 1000 : null;
  lead.querySelector("[data-left]").textContent =
    left === null ? "" : say("left", sayDuration(Math.max(1, Math.round(left))));
  if (whole === null) return;
  document.title = `${whole}% ${page.dataset.title} · Kabar`;
  showProgressRow(page, whole);
}

/** Progress is state and no event: one row on top of the panel, which changes. */
function showProgressRow(page, percent) {
  const body = page.querySelector(".doors tbody");
  let row = body.querySelector("[data-progress-row]");
  if (!row) {
    row = newRow("", "");
    row.dataset.progressRow = "";
    const mark = document.createElement("span");
    mark.className = "running";
    mark.append(drawIcon("running"));
    row.querySelector(".seq").append(mark);
    row.querySelector(".ev").dataset.progress = "";
    row.querySelector(".ev + span").dataset.progressNote = "";
    body.prepend(row);
  }
  row.querySelector("[data-progress]").textContent = say("progress", percent);
  row.querySelector("[data-progress-note]").textContent = say("notKept", sayTime(new Date().toISOString(), 0));
}

function addLine(page, event) {
  const { level, message } = event.data.log;
  const log = page.querySelector("[data-log]");
  if (log.querySelector(`[data-line="${event.sequence}"]`)) return;
  const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  const line = document.createElement("li");
  line.dataset.line = event.sequence;
  const time = document.createElement("time");
  time.dateTime = event.timestamp;
  time.textContent = sayTime(event.timestamp, 1);
  const word = document.createElement("span");
  word.className = `lv lv-${level === "warning" ? "warn" : level}`;
  word.textContent = level;
  const text = document.createElement("span");
  text.textContent = message;
  line.append(time, word, text);
  log.append(line);
  log.closest("[data-log-section]").hidden = false;
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function addRow(page, event) {
  const body = page.querySelector(".doors tbody");
  if (body.querySelector(`[data-event="${event.sequence}"]`)) return;
  const words = { warning: "logWarning", error: "logError" };
  const row = newRow(say(words[event.data.log.level] ?? "logLine"), sayTime(event.timestamp));
  row.dataset.event = event.sequence;
  row.className = "fresh";
  row.querySelector(".seq").textContent = event.sequence;
  const progress = body.querySelector("[data-progress-row]");
  if (progress) progress.after(row);
  else body.prepend(row);
}

function newRow(word, note) {
  const row = document.createElement("tr");
  const [sequence, event, here, webhook] = ["seq", "", "door", "door"].map((css) => {
    const cell = document.createElement("td");
    cell.className = css;
    row.append(cell);
    return cell;
  });
  sequence.textContent = "";
  const name = document.createElement("span");
  name.className = "ev";
  name.textContent = word;
  const when = document.createElement("span");
  when.textContent = note;
  event.append(name, when);
  here.dataset.here = "";
  here.hidden = true;
  webhook.append(got("pending", "no", say("notAsked")));
  return row;
}

/** Say in the column of this page what it really knows: which door brought it each event. */
function showDoor(page, heard) {
  for (const cell of page.querySelectorAll(".doors [data-here]")) {
    cell.hidden = false;
    const row = cell.closest("[data-event]");
    if (!row) continue;
    const door = heard.get(Number(row.dataset.event)) ?? "viaPage";
    cell.replaceChildren(got("completed", "yes", say(door)));
  }
}

function got(css, shape, word) {
  const span = document.createElement("span");
  span.className = `got ${css}`;
  const text = document.createElement("span");
  text.textContent = word;
  span.append(drawIcon(shape), text);
  return span;
}

/** Announce progress now and then: at most each 10 s, and only where 10 percent have passed. */
function progressTeller() {
  let at = 0;
  let told = 0;
  return ({ progress: { percent, message } }) => {
    if (percent === null || percent - told < ANNOUNCE_PERCENT || Date.now() - at < ANNOUNCE_MS) return;
    told = percent;
    at = Date.now();
    announce(say("percent", Math.floor(percent), message ?? ""));
  };
}
