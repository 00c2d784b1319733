// Durations that go on: `data-since` says since when.

import { say, sayDuration } from "./texts.js";

export function startClock() {
  setInterval(() => {
    for (const element of document.querySelectorAll("[data-since]")) {
      const words = sayDuration((Date.now() - Date.parse(element.dataset.since)) / 1000);
      element.textContent = "bare" in element.dataset ? words : say("runningFor", words);
    }
  }, 1000);
}
