"use strict";
// Keys, drafts and patience. Every page works without this file; with it, nothing typed is lost
// when the connection is: it stays in the browser until the server has it.

const form = document.getElementById("task");
if (form) label(form);
document.querySelectorAll("a[data-enter]").forEach((link) => link.focus());
document.querySelectorAll("input.copy").forEach((input) => input.addEventListener("focus", () => input.select()));
const linked = document.querySelector("input.copy");
if (linked) linked.select();

function label(form) {
  const saved = document.getElementById("saved");
  const step = form.elements.step.value;
  const kept = "draft " + form.action + " " + step; // in localStorage, while the server lacks it
  const typed = () => new URLSearchParams(new FormData(form));
  let timer = 0;
  let version = 0; // of what is typed
  let sending = false;
  let leaving = false;

  function tell(state, text) {
    saved.dataset.state = state;
    if (saved.textContent !== text) saved.textContent = text;
  }

  const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  // Posts until the server answers. Sending again is harmless: the form's key makes it count once.
  async function post(address, body) {
    for (let pause = 1000; ; pause = Math.min(2 * pause, 15000)) {
      try {
        const response = await fetch(address, {
          method: "POST", body, headers: { Accept: "application/json" }, credentials: "same-origin",
        });
        if (response.status < 500 && response.status !== 429) return response;
      } catch (error) {
        // No connection: below.
      }
      tell("lost", "Not saved: no connection. Trying again…");
      await wait(pause);
    }
  }

  function keep() {
    const fields = typed();
    for (const name of ["csrf", "key", "step"]) fields.delete(name);
    try { localStorage.setItem(kept, fields.toString()); } catch (error) { /* private mode: the server's copy is all */ }
  }

  function forget() {
    try { localStorage.removeItem(kept); } catch (error) { /* nothing was kept */ }
  }

  async function saveDraft() {
    if (sending || leaving) return;
    sending = true;
    const sent = version;
    tell("saving", "Saving…");
    const response = await post(form.dataset.draft, typed());
    sending = false;
    if (leaving) return;
    if (!response.ok) return tell("lost", "Not saved: " + (await reason(response)));
    if (version !== sent) return saveDraft();
    forget();
    tell("saved", "Saved");
  }

  async function reason(response) {
    try { return (await response.json()).error || "load the page again."; } catch (error) { return "load the page again."; }
  }

  function changed() {
    version++;
    keep();
    if (saved.dataset.state !== "lost") tell("typing", "");
    clearTimeout(timer);
    timer = setTimeout(saveDraft, 600);
  }

  async function send() {
    if (leaving) return;
    leaving = true;
    clearTimeout(timer);
    keep();
    const button = document.getElementById("send");
    button.setAttribute("aria-disabled", "true");
    tell("saving", "Saving…");
    const response = await post(form.action, typed());
    if (response.ok && (response.headers.get("content-type") || "").startsWith("application/json")) {
      const { next } = await response.json();
      forget();
      tell("saved", "Saved");
      return location.assign(next);
    }
    if (response.status === 422) return form.submit(); // the server's page says what is missing
    leaving = false;
    button.removeAttribute("aria-disabled");
    tell("lost", "Not saved: " + (await reason(response)));
  }

  function restore() {
    let text = null;
    try { text = localStorage.getItem(kept); } catch (error) { /* nothing was kept */ }
    if (!text) return;
    for (const [name, value] of new URLSearchParams(text)) {
      const field = form.elements[name];
      if (field) field.value = value;
    }
    changed();
  }

  const scales = [...form.querySelectorAll("fieldset.scale")];
  let scale = 0; // that a digit answers
  scales.forEach((one, i) => one.addEventListener("focusin", () => { scale = i; }));

  function choose(digit) {
    const points = scales[scale] && scales[scale].querySelector(`input[value="${digit}"]`);
    if (!points) return false;
    const here = scale;
    points.checked = true;
    points.focus();
    changed();
    if (here + 1 < scales.length) {
      const next = scales[here + 1];
      (next.querySelector("input:checked") || next.querySelector("input")).focus();
      next.scrollIntoView({ block: "nearest" });
    }
    return true;
  }

  function mark(name) {
    const words = String(getSelection()).trim().replace(/\s*\n\s*/g, "\n");
    const area = form.elements[name];
    if (!words) return;
    area.value = (area.value.trim() ? area.value.trimEnd() + "\n" : "") + words;
    changed();
  }

  for (const area of form.querySelectorAll(".marks textarea")) {
    const add = document.createElement("button");
    add.type = "button";
    add.className = "add";
    add.textContent = "Add the selected words";
    add.addEventListener("pointerdown", (event) => event.preventDefault()); // which would lose the selection
    add.addEventListener("click", () => mark(area.name));
    area.after(add);
  }

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (!form.contains(target) && target !== document.body && !target.closest("article.post")) return;
    const writing = target.matches("textarea, input:not([type=radio])");
    const go = event.key === "Enter" && !target.matches("a, summary, button");
    const marks = { KeyI: "invented", KeyM: "missing", KeyU: "unclear" };
    if (go && (event.ctrlKey || event.metaKey || !writing)) send();
    else if (event.key === "Escape" && writing) target.blur();
    else if (event.altKey && marks[event.code] && form.elements[marks[event.code]]) mark(marks[event.code]);
    else if (event.ctrlKey || event.metaKey || event.altKey || writing) return;
    else if (/^[1-9]$/.test(event.key) && choose(event.key)) { /* done */ }
    else if (event.key.toLowerCase() === "c") (form.elements.comment || form.elements.note)?.focus();
    else return;
    event.preventDefault();
  });

  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  window.addEventListener("online", () => { if (saved.dataset.state === "lost") saveDraft(); });

  const count = form.querySelector("[data-count]");
  if (count) {
    const area = form.elements[count.dataset.count];
    const show = () => {
      const words = area.value.split(/\s+/).filter(Boolean).length;
      count.textContent = words === 1 ? "1 word" : `${words} words`;
    };
    area.addEventListener("input", show);
    show();
  }

  restore();
  const wrong = form.querySelector("[aria-invalid=true]");
  const first = wrong || (scales[0] && (scales[0].querySelector("input:checked") || scales[0].querySelector("input"))) || form.querySelector("textarea");
  if (first) first.focus({ preventScroll: true });
}
