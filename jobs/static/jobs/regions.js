// Puts what the server renders anew in place of what stands on the page, and leaves alone what didn't change: the
// focus, the scroll position, a frame that is loaded.

// Each rendering masks the same token anew.
const TOKEN = /name="csrfmiddlewaretoken" value="[^"]*"/g;
const rendered = new WeakMap(); // an element as the server wrote it, before scripts touched it

/** Remember the server's writing of what may be compared later; call it before anything on the page is changed. */
export function remember(elements) {
  for (const element of elements) rendered.set(element, writing(element));
}

/**
 * Replace an element by its newer version, if they differ.
 *
 * @param {Element} standing
 * @param {Element} incoming of another document
 * @param {Element} [heir] takes the focus where the control that had it is gone
 * @returns {Element} the one that stands now
 */
export function replace(standing, incoming, heir) {
  const text = writing(incoming);
  if (text === rendered.get(standing)) return standing;
  const focused = standing.contains(document.activeElement) ? document.activeElement : null;
  const fresh = document.importNode(incoming, true);
  rendered.set(fresh, text);
  standing.replaceWith(fresh);
  if (focused) handOn(focused, fresh, heir);
  return fresh;
}

/** Read a page or a part of one; null where it can't be had. Goes to the sign-in where the session is over. */
export async function read(address) {
  const answer = await fetch(address, { headers: { Accept: "text/html" }, cache: "no-store" });
  if (answer.redirected) {
    location.reload();
    return null;
  }
  if (!answer.ok) return null;
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

/** Run something at once and, as long as it is asked for, again after each pause; never twice at a time. */
export function throttled(run, milliseconds) {
  let isRunning = false;
  let isWanted = false;
  return async function ask() {
    isWanted = true;
    if (isRunning) return;
    isRunning = true;
    while (isWanted) {
      isWanted = false;
      await run().catch(() => {}); // the next event, or the connection coming back, asks again
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
    }
    isRunning = false;
  };
}

function writing(element) {
  return element.outerHTML.replace(TOKEN, "");
}

function handOn(focused, fresh, heir) {
  const likely = [...fresh.querySelectorAll("a, button, [tabindex]")].find(
    (each) => each.tagName === focused.tagName && each.textContent === focused.textContent,
  );
  (likely ?? heir ?? fresh.querySelector("a"))?.focus({ preventScroll: true });
}
