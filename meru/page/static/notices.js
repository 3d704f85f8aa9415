// The one line for errors, the announcements for screen readers, and the waiting for a server that has gone.

import { getState } from "./api.js";
import { afterwards, byId, make } from "./dom.js";
import { say } from "./texts.js";

const FIRST_WAIT = 2;
const LONGEST_WAIT = 15;

let waiting = null;

/** Says something to screen readers, once things have come to rest. */
export const announce = afterwards((text) => {
  byId("announcement").textContent = text;
}, 500);

/** Shows an error as one line; for a server that has gone, tries again until it answers and then calls `back`. */
export function showProblem(problem, back = () => {}) {
  if (problem.name === "AbortError") return;
  if (problem.gone) waitForServer(back);
  else if (!waiting) showLine(problem.status === 401 ? say("needs_token") : problem.message);
}

/** Removes the error of the last search at the next one; that the server has gone stays until it answers. */
export function clearProblem() {
  if (!waiting) byId("problem").replaceChildren();
}

/** The server has answered: nothing is waited for any more. */
export function serverAnswered() {
  if (!waiting) return;
  clearTimeout(waiting.timer);
  waiting = null;
  clearProblem();
}

function showLine(text, ...more) {
  const close = make(
    "button",
    { type: "button", class: "plain", "aria-label": say("dismiss"), onclick: clearProblem },
    "×",
  );
  byId("problem").replaceChildren(make("span", {}, text), ...more, ...(more.length ? [] : [close]));
}

function waitForServer(back) {
  if (waiting) {
    waiting.back = back;
    return;
  }
  waiting = { back, seconds: FIRST_WAIT, timer: 0 };
  showLine(say("server_gone"), make("button", { type: "button", onclick: tryAgain }, say("try_now")));
  waiting.timer = setTimeout(tryAgain, 1000 * waiting.seconds);
}

async function tryAgain() {
  const own = waiting;
  if (!own) return;
  clearTimeout(own.timer);
  try {
    await getState();
  } catch (problem) {
    if (problem.gone && own === waiting) {
      own.seconds = Math.min(2 * own.seconds, LONGEST_WAIT);
      own.timer = setTimeout(tryAgain, 1000 * own.seconds);
      return;
    }
  }
  if (own !== waiting) return;
  serverAnswered();
  announce(say("server_back"));
  own.back();
}
