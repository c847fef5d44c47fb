"use strict";
// Keys, drafts and patience. Every page works without this file; with it, nothing typed is lost
// when the connection is: it stays in the browser until the server has it.

const person = document.body.dataset.person;
const form = document.getElementById("task");
if (form) label(form);
const leaving = document.querySelector("form[data-leave]");
if (leaving) signOut(leaving);
document.querySelectorAll("a[data-enter]").forEach((link) => link.focus());
document.querySelectorAll("input.copy").forEach((input) => input.addEventListener("focus", () => input.select()));
const linked = document.querySelector("input.copy");
if (linked) linked.select();

// Drafts in localStorage, which the server lacks, are a person's: several may share a browser.
function drafts() {
  try { return Object.keys(localStorage).filter((name) => name.startsWith(`draft ${person} `)); } catch (error) { return []; }
}

function signOut(form) {
  const waiting = drafts();
  document.getElementById("unsaved").hidden = !waiting.length;
  for (const name of waiting) {
    const link = document.createElement("a");
    link.href = name.split(" ")[2];
    link.textContent = "to the task";
    document.querySelector("#unsaved ul").appendChild(document.createElement("li")).append(link);
  }
  form.addEventListener("submit", () => waiting.forEach((name) => localStorage.removeItem(name)));
}

function label(form) {
  const saved = document.getElementById("saved");
  const step = form.elements.step.value;
  const kept = `draft ${person} ${form.action} ${step}`;
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
        tell("lost", "Not saved: the site is busy. Trying again…");
      } catch (error) {
        tell("lost", "Not saved: no connection. Trying again…");
      }
      await wait(pause);
    }
  }

  function words() {
    const fields = typed();
    for (const name of ["csrf", "key", "step", "version"]) fields.delete(name);
    return fields.toString();
  }

  // With the version that it goes on from, and the page that it is typed on.
  function keep(version = form.elements.version.value) {
    const draft = { words: words(), version, key: form.elements.key.value };
    try { localStorage.setItem(kept, JSON.stringify(draft)); } catch (error) { /* private mode: the server's copy is all */ }
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
    form.elements.version.value = (await response.json()).version;
    if (version !== sent) { keep(); return saveDraft(); }
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
    if (response.status === 422 || response.status === 409) return form.submit(); // the server's page says why
    leaving = false;
    button.removeAttribute("aria-disabled");
    tell("lost", "Not saved: " + (await reason(response)));
  }

  // Puts back what was typed here and is not saved; where the person has gone on elsewhere since, only offers it.
  function restore() {
    let draft = null;
    try { draft = JSON.parse(localStorage.getItem(kept)); } catch (error) { /* nothing was kept */ }
    if (form.dataset.unsaved === "problems") return changed();
    if (form.dataset.unsaved === "conflict") return keep(""); // until the person has decided
    if (!draft) return;
    if (draft.words === words()) return forget();
    if (draft.version === form.elements.version.value || draft.key === form.dataset.writer) return putBack(draft.words);
    offer(draft.words);
  }

  function putBack(text) {
    for (const [name, value] of new URLSearchParams(text)) {
      const field = form.elements[name];
      if (field) field.value = value;
    }
    changed();
  }

  function offer(text) {
    const box = document.getElementById("older");
    const list = box.querySelector("ul");
    const close = (act) => { box.hidden = true; act(); };
    for (const [, value] of new URLSearchParams(text)) {
      if (value) list.appendChild(document.createElement("li")).textContent = value;
    }
    const [use, drop] = box.querySelectorAll("button");
    use.addEventListener("click", () => close(() => putBack(text)));
    drop.addEventListener("click", () => close(forget));
    box.hidden = false;
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

  // Adds the selected words to a field, and to another where in the text they stand, as they may stand there twice.
  function mark(name) {
    const selected = getSelection();
    if (!selected.rangeCount || selected.isCollapsed) return;
    const range = selected.getRangeAt(0);
    const text = document.getElementById(name === "missing" ? "post-text" : "summary-text");
    const before = document.createRange();
    before.selectNodeContents(text);
    const inside = text.contains(range.commonAncestorContainer);
    if (inside) before.setEnd(range.startContainer, range.startOffset);
    let start = [...before.toString()].length; // characters, as the server counts them
    for (const line of range.toString().split("\n")) {
      const place = start + [...line].findIndex((one) => one.trim());
      start += [...line].length + 1;
      if (!line.trim()) continue;
      add(form.elements[name], line.trim());
      if (inside) add(form.elements.places, `${name} ${place}`);
    }
    changed();
  }

  function add(field, line) {
    field.value = (field.value.trim() ? field.value.trimEnd() + "\n" : "") + line;
  }

  for (const area of form.querySelectorAll(".marks textarea")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "add";
    button.textContent = "Add the selected words";
    button.addEventListener("pointerdown", (event) => event.preventDefault()); // which would lose the selection
    button.addEventListener("click", () => mark(area.name));
    area.after(button);
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
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // by the back button
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
