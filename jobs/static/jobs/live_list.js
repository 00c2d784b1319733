// My jobs, live: rows change in place, and what is new is offered, never pushed in.

import { remember, read, replace, throttled } from "./regions.js";
import { announce, connect } from "./shell.js";
import { say, sayNumber, sayState } from "./texts.js";

const ROWS_MS = 1_000; // between two looks at rows that changed
const COUNTS_MS = 5_000; // and at counts only
const ENDS = new Set(["job.completed", "job.failed", "job.cancelled"]);

export function followList(list) {
  const rows = () => [...list.querySelectorAll("[data-job]")];
  remember([...rows(), ...document.querySelectorAll("[data-region]")]);
  askBeforeCancelling();
  const changed = new Set();
  const fresh = new Set();

  const look = async () => {
    const ids = [...changed];
    changed.clear();
    const query = new URLSearchParams(ids.map((id) => ["id", id]));
    query.set("query", location.search.slice(1));
    const page = await read(`${list.dataset.rows}?${query}`).catch(() => null);
    if (!page) {
      for (const id of ids) changed.add(id);
      return;
    }
    for (const region of page.querySelectorAll("[data-region]")) {
      replace(document.querySelector(`[data-region="${region.dataset.region}"]`), region);
    }
    for (const incoming of page.querySelectorAll("[data-job]")) {
      const standing = list.querySelector(`[data-job="${incoming.dataset.job}"]`);
      if (standing && Number(incoming.dataset.version) >= Number(standing.dataset.version)) {
        replace(standing, incoming, standing.querySelector(".name a")).classList.add("fresh");
      }
    }
  };
  const lookAtRows = throttled(look, ROWS_MS);
  const lookAtCounts = throttled(look, COUNTS_MS);

  const kabar = connect(() => changed.size && lookAtRows());
  kabar.watchAll({
    cursor: list.dataset.cursor,
    onReset: () => {
      for (const row of rows()) changed.add(row.dataset.job);
      lookAtRows();
    },
    onEvent: (event) => {
      const job = event.data;
      const row = list.querySelector(`[data-job="${job.jobId}"]`);
      if (event.type === "job.accepted" && !row) {
        if (isOfThisList(list, job)) offer(fresh.add(job.jobId).size);
        return lookAtCounts();
      }
      if (!row || job.version <= Number(row.dataset.version)) return event.id === null ? null : lookAtCounts();
      if (event.type === "job.progress") return showProgress(row, job);
      if (event.type === "job.log") return;
      if (ENDS.has(event.type)) {
        announce(`${row.querySelector(".name a").textContent}: ${sayState(job.status.toLowerCase())}`);
      }
      changed.add(job.jobId);
      lookAtRows();
    },
  });
}

function showProgress(row, job) {
  const bar = row.querySelector("progress");
  const { percent, message } = job.progress;
  if (!bar) return; // its start hasn't been shown yet; the row that is on its way has this too
  row.dataset.version = job.version;
  if (percent === null) bar.removeAttribute("value");
  else bar.value = Math.floor(percent);
  row.querySelector("[data-percent]").textContent = percent === null ? "" : `${Math.floor(percent)}%`;
  row.querySelector("[data-no-figure]").hidden = percent !== null;
  row.querySelector("[data-message]").textContent = job.cancelRequestedAt ? say("cancelling") : (message ?? "");
}

/** Tell whether a job that was just accepted would stand on top of this list. */
function isOfThisList({ dataset }, job) {
  return (
    "firstPage" in dataset &&
    (!dataset.kind || dataset.kind === job.kind) &&
    (!dataset.tag || job.tags.includes(dataset.tag)) &&
    (!dataset.status || dataset.status === "PENDING") &&
    (!dataset.until || job.createdAt.slice(0, 10) <= dataset.until)
  );
}

function offer(count) {
  const notice = document.querySelector("[data-new]");
  notice.querySelector("[data-new-word]").textContent = say(count === 1 ? "newJob" : "newJobs", sayNumber(count));
  notice.querySelector("[data-new-link]").textContent = say(
    count === 1 ? "showNewJob" : "showNewJobs",
    sayNumber(count),
  );
  notice.hidden = false;
}

/** One dialog for the cancel buttons of all rows. */
function askBeforeCancelling() {
  const dialog = document.getElementById("ask-cancel");
  let waiting = null;
  document.addEventListener("submit", (submission) => {
    const form = submission.target;
    if (!form.dataset.ask) return;
    submission.preventDefault();
    waiting = form;
    dialog.querySelector("[data-ask-title]").textContent = form.dataset.ask;
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "yes") waiting?.submit();
  });
}
