// Starting a job: files by drop, upload progress, and the curl that says the same.

import { announce } from "./shell.js";
import { say, saySize } from "./texts.js";

const CURL_MS = 300;
const QUARTERS = [25, 50, 75, 100];

export function startForm(page) {
  for (const drop of page.querySelectorAll("[data-drop]")) takeDrops(drop);
  const form = page.querySelector("[data-start-form]");
  let timer = null;
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => writeCurl(page, form).catch(() => {}), CURL_MS);
  });
  form.addEventListener("submit", (submission) => {
    submission.preventDefault();
    send(page, form);
  });
}

function takeDrops(drop) {
  const input = drop.querySelector("input");
  const upload = drop.parentElement.querySelector("[data-upload]");
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, () => drop.classList.add("over"));
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  const show = () => {
    const [file] = input.files;
    upload.hidden = !file;
    upload.querySelector("[data-file]").textContent = file?.name ?? "";
    upload.querySelector("[data-size]").textContent = file ? saySize(file.size) : "";
  };
  input.addEventListener("change", show);
  upload.querySelector("[data-remove]").addEventListener("click", () => {
    input.value = "";
    input.dispatchEvent(new Event("input", { bubbles: true }));
    show();
    input.focus();
  });
  show();
}

/** Ask the server for the command: it alone knows how a field becomes a value. */
async function writeCurl(page, form) {
  const fields = new FormData();
  for (const [name, value] of new FormData(form)) {
    if (value instanceof File) fields.append(page.dataset.fileName + name.replace("params.", ""), value.name);
    else fields.append(name, value);
  }
  const answer = await fetch(page.dataset.curlUrl, { method: "POST", body: fields });
  if (answer.ok && !answer.redirected) page.querySelector("#curl").textContent = await answer.text();
}

/** Send the form with upload progress; go to the job's page, or show what is wrong. */
function send(page, form) {
  const button = form.querySelector(".btn.main");
  const upload = form.querySelector("[data-upload]:not([hidden])");
  const request = new XMLHttpRequest();
  const quarters = [...QUARTERS];
  button.disabled = true;
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    const percent = Math.floor((100 * loaded) / total);
    showUpload(upload, loaded, total, percent);
    if (percent >= quarters[0]) {
      while (percent >= quarters[0]) quarters.shift();
      if (upload) announce(say("sentPercent", percent));
    }
  });
  request.addEventListener("load", () => {
    const address = new URL(request.responseURL);
    if (request.status === 200 && address.pathname !== new URL(form.action).pathname) return location.assign(address);
    const isPage = request.getResponseHeader("Content-Type")?.startsWith("text/html");
    if (isPage) return showFaults(page, request.responseText);
    button.disabled = false;
    fail(upload, form, say(request.status === 413 ? "tooLarge" : "uploadFailed"));
  });
  request.addEventListener("error", () => {
    button.disabled = false;
    fail(upload, form, say("uploadFailed"));
  });
  request.open("POST", form.action);
  request.send(new FormData(form));
}

function showUpload(upload, loaded, total, percent) {
  if (!upload) return;
  const bar = upload.querySelector("[data-bar]");
  bar.hidden = false;
  bar.value = percent;
  upload.querySelector("[data-sent]").textContent = say("sent", saySize(loaded), saySize(total));
}

function fail(upload, form, text) {
  const place = upload?.querySelector("[data-sent]") ?? form.querySelector(".actions .quiet");
  if (place) place.textContent = text;
  announce(text);
}

/** Put the form that came back in place of this one; the files that were chosen stay chosen. */
function showFaults(page, text) {
  const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("[data-start]");
  if (!fresh) return location.reload();
  const files = [...page.querySelectorAll('input[type="file"]')];
  const incoming = document.importNode(fresh, true);
  for (const input of files) {
    const empty = incoming.querySelector(`#${input.id}`);
    if (empty && input.files.length) empty.files = input.files;
  }
  page.replaceWith(incoming);
  startForm(incoming);
  document.getElementById("faults")?.focus();
}
