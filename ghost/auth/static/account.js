// The pages behind mailed links: take the token from the address, send it when the button is
// pressed, and say what came of it. Opening a page sends nothing.
"use strict";

(function () {
  const TIMEOUT_MS = 20000;
  let token = readToken();

  document.documentElement.classList.add("scripted");
  document.addEventListener("DOMContentLoaded", start);
  // A second link opened in the same tab changes the fragment alone and loads nothing.
  window.addEventListener("hashchange", function () {
    if (location.hash) location.reload();
  });

  // The fragment never reaches a server; out of the address bar, it also reaches no history,
  // no screenshot and no shared link.
  function readToken() {
    const found = new URLSearchParams(location.hash.slice(1)).get("token");
    if (found) history.replaceState(null, "", location.pathname);
    return found;
  }

  function start() {
    const form = document.getElementById("account-form");
    if (!token) {
      finish(form, null, "This page was opened without its link. Please open the link in your mail again.", false);
      return;
    }
    const show = document.getElementById("show");
    if (show) {
      show.addEventListener("change", function () {
        form.elements.new_password.type = show.checked ? "text" : "password";
      });
    }
    form.addEventListener("submit", function (event) {
      event.preventDefault();
      send(form);
    });
  }

  async function send(form) {
    const button = form.querySelector("button");
    if (button.disabled) return;
    const body = { token: token };
    const field = form.elements.new_password;
    if (field) body.new_password = field.value;
    say("", null);
    showFieldError(field, "");
    button.disabled = true;
    try {
      const response = await fetch(form.action, {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify(body),
        credentials: "omit",
        cache: "no-store",
        signal: AbortSignal.timeout ? AbortSignal.timeout(TIMEOUT_MS) : undefined,
      });
      const envelope = await response.json().catch(function () { return {}; });
      answer(form, field, response, envelope);
    } catch (error) {
      say("The server could not be reached. Please check your connection and try again.", false);
    } finally {
      button.disabled = false;
    }
  }

  function answer(form, field, response, envelope) {
    if (response.ok) {
      finish(form, form.dataset.doneTitle, form.dataset.done, true);
      return;
    }
    const details = ((envelope.error || {}).details || {}).json || {};
    if (response.status === 410 || details.token) {
      finish(form, "This link no longer works", form.dataset.used, false);
    } else if (response.status === 422 && field && details.new_password) {
      showFieldError(field, [].concat(details.new_password).join(" "));
    } else if (response.status === 429) {
      say("That was one try too many. Please try again " + wait(response) + ".", false);
    } else if (response.status >= 500) {
      say("Something is not working on our side just now. Please try again in a minute.", false);
    } else {
      say(envelope.message || "That did not work. Please try again.", false);
    }
  }

  function wait(response) {
    const seconds = parseInt(response.headers.get("Retry-After"), 10);
    if (!(seconds > 0)) return "in a minute";
    if (seconds < 60) return "in " + seconds + (seconds === 1 ? " second" : " seconds");
    const minutes = Math.ceil(seconds / 60);
    return "in " + minutes + (minutes === 1 ? " minute" : " minutes");
  }

  function showFieldError(field, text) {
    if (!field) return;
    document.getElementById(field.id + "-error").textContent = text;
    if (text) {
      field.setAttribute("aria-invalid", "true");
      field.focus();
    } else {
      field.removeAttribute("aria-invalid");
    }
  }

  function finish(form, title, text, good) {
    token = null;
    form.reset();
    form.hidden = true;
    if (title) document.querySelector("h1").textContent = title;
    say(text, good);
    document.getElementById("outcome").focus();
  }

  function say(text, good) {
    const outcome = document.getElementById("outcome");
    outcome.textContent = "";
    if (!text) return;
    const line = document.createElement("p");
    line.className = good ? "good" : "bad";
    line.textContent = text;
    outcome.append(line);
  }
})();
