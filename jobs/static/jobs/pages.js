// The pages' script. Every page is whole without it; it brings what can't wait for the next look.

import { startClock } from "./clock.js";
import { startForm } from "./start_form.js";
import { followJob } from "./live_job.js";
import { followList } from "./live_list.js";
import { startShell } from "./shell.js";

startShell();
startClock();
const form = document.querySelector("[data-start]");
const list = document.querySelector("[data-list]");
const job = document.querySelector("[data-live-job]");
if (form) startForm(form);
if (list) followList(list);
if (job) followJob(job);
