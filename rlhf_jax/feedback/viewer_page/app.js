"use strict";
// Reads `samples`, which data/index.js sets. All text of posts and summaries becomes text, never markup.

const one = selector => document.querySelector(selector);
const posts = samples.posts;
const filters = one(".filters");
const article = one("article");
const pageSize = 100;
const words = samples.words;  // for prompts and responses
const headings = { score: "RM", gold: "gold", key_fact: "key fact" };
const loading = [];   // a promise for every chunk asked for
let found = posts;   // posts that pass the filters, in order
let current;          // the post shown

function element(tag, name, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children.filter(child => child !== null));
  return node;
}

// ---- Data

function load(chunk) {
  return loading[chunk] ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `data/${chunk}.js`;
    script.onload = resolve;
    script.onerror = () => {
      loading[chunk] = undefined;
      reject(new Error(`data/${chunk}.js could not be loaded.`));
    };
    document.head.append(script);
  });
}

const textsOf = post => samples.texts[post.place[0]]?.[post.place[1]];

function holds(post, query) {
  const texts = textsOf(post);
  const written = texts ? [texts.post, ...texts.summaries.map(summary => summary.text)] : [];
  return [post.title, ...written].some(text => text.toLowerCase().includes(query));
}

// ---- Filters

const lengths = posts.map(post => post.words).sort((a, b) => a - b);
const [third, twoThirds] = [1, 2].map(i => lengths[Math.floor(i * lengths.length / 3)]);
const passes = {
  words: {
    short: post => post.words < third,
    middle: post => post.words >= third && post.words < twoThirds,
    long: post => post.words >= twoThirds,
  },
  disagreement: {
    judged: post => post.disagreement !== null,
    never: post => post.disagreement === 0,
    sometimes: post => post.disagreement > 0,
    mostly: post => post.disagreement >= 0.5,
  },
};
const orders = {
  shortest: (a, b) => a.words - b.words,
  longest: (a, b) => b.words - a.words,
  disagreement: (a, b) => (b.disagreement ?? -1) - (a.disagreement ?? -1),
};
const query = () => filters.query.value.trim().toLowerCase();

function fillFilters() {
  const counts = new Map();
  for (const post of posts) counts.set(post.source, (counts.get(post.source) ?? 0) + 1);
  for (const [source, count] of [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])))
    option("source", source, `${source} (${count})`);
  option("words", "short", `below ${third} words`);
  option("words", "middle", `${third} to ${twoThirds - 1} words`);
  option("words", "long", `${twoThirds} words or more`);
  one(".if-judged").hidden = samples.judge === null;
  if (samples.judge) {
    if (samples.judge === "people") option("disagreement", "judged", "where people compared");
    option("disagreement", "sometimes", `disagrees with ${samples.judge}`);
    option("disagreement", "mostly", "disagrees on half or more");
    option("disagreement", "never", `agrees with ${samples.judge}`);
    option("order", "disagreement", "by disagreement");
  }
  samples.policies.forEach((name, i) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.name = "policy";
    box.value = i;
    box.defaultChecked = true;
    filters.querySelector(".policies").append(element("label", i === samples.ppo ? "ppo" : "", box, name));
  });
}

function option(name, value, text) {
  filters[name].append(new Option(text, value));
}

function filter() {
  const wanted = query();
  found = posts.filter(post =>
    (!filters.source.value || post.source === filters.source.value) &&
    ["words", "disagreement"].every(name => passes[name][filters[name].value]?.(post) ?? true) &&
    (!wanted || holds(post, wanted)));
  const order = orders[filters.order.value];
  if (order) found.sort(order);
}

// Filters what is loaded, then the rest as it comes.
async function search() {
  refilter();
  if (!query()) return;
  const asked = query();
  for (let chunk = 0; chunk < samples.chunks; chunk++) {
    if (samples.texts[chunk]) continue;
    one(".found").textContent = `Searching, ${Math.round(100 * chunk / samples.chunks)}%`;
    try {
      await load(chunk);
    } catch (error) {
      one(".found").textContent = error.message;
      return;
    }
    if (query() !== asked) return;
  }
  refilter();
}

function refilter() {
  filter();
  if (found.length && !found.includes(current)) go(found[0]);
  else show();
}

// ---- What is shown

function go(post) {
  current = post;
  location.hash = encodeURIComponent(post.id);
  show();
  scrollTo(0, 0);
}

function step(by) {
  const next = found.includes(current) ? found[found.indexOf(current) + by] : found[0];
  if (next) go(next);
}

// The post that the address names, if any.
function addressed() {
  try {
    const id = decodeURIComponent(location.hash.slice(1));
    return posts.find(post => post.id === id);
  } catch {
    return undefined;
  }
}

async function show() {
  const shown = current;
  const at = found.indexOf(shown);
  one(".previous").disabled = at <= 0;
  one(".next").disabled = at >= found.length - 1 && at !== -1 || !found.length;
  one(".position").textContent = at < 0 ? "not among those found" : `${at + 1} of ${found.length}`;
  one(".found").textContent = found.length === posts.length ? `${posts.length} samples` : `${found.length} of ${posts.length} samples`;
  showList(Math.max(0, at));
  document.title = `${shown.title} – ${samples.title}`;
  try {
    await load(shown.place[0]);
  } catch (error) {
    article.replaceChildren(element("p", "warn", error.message));
    return;
  }
  if (shown !== current) return;
  article.replaceChildren(...sampleOf(shown, textsOf(shown)));
  const next = found[at + 1];
  if (next) load(next.place[0]).catch(() => {});
}

function showList(at) {
  const start = at - at % pageSize;
  const entries = found.slice(start, start + pageSize).map(post => {
    const link = element("a", "", element("span", "title", post.title),
      element("span", "soft", `${post.source ? post.source + " · " : ""}${post.words} words${disagreeing(post)}`));
    link.href = `#${encodeURIComponent(post.id)}`;
    if (post === current) link.setAttribute("aria-current", "true");
    return element("li", "", link);
  });
  const list = one(".list ol");
  list.start = start + 1;
  list.replaceChildren(...entries);
  const mark = list.querySelector("[aria-current]");
  if (mark) one(".list").scrollTop = mark.offsetTop - one(".list").clientHeight / 2;
}

const disagreeing = post => post.disagreement ? ` · RM disagrees on ${Math.round(100 * post.disagreement)}%` : "";

function sampleOf(post, texts) {
  const checked = new Set([...filters.querySelectorAll("[name=policy]:checked")].map(box => Number(box.value)));
  const shown = texts.summaries.filter(summary => checked.has(summary.policy));
  const best = {};
  for (const kind of samples.kinds)
    best[kind] = Math.max(...texts.summaries.map(summary => summary[kind] ?? -Infinity));
  const cards = element("div", "cards", ...shown.map(summary => card(summary, best)));
  const about = element("p", "about soft", `${post.source ? post.source + " · " : ""}${post.words} words · `);
  const link = element("a", "", post.id);
  link.href = `#${encodeURIComponent(post.id)}`;
  about.append(link);
  const body = text("div", "body", texts.post.trim());
  body.tabIndex = 0;  // it scrolls on small screens
  return [
    element("section", "post", about, text("h2", "", post.title), body),
    element("section", "summaries", cards, verdicts(post, texts)),
  ];
}

function card(summary, best) {
  const scores = samples.kinds.filter(kind => summary[kind] !== null && summary[kind] !== undefined).map(kind => {
    const value = kind === "key_fact" ? (summary[kind] ? "✓" : "–") : number(summary[kind], kind === "score");
    const isBest = kind !== "key_fact" && summary[kind] === best[kind];
    return element("div", isBest ? "best" : "", element("dt", "", headings[kind]), element("dd", "", value));
  });
  const words = summary.text.split(/\s+/).filter(Boolean).length;
  return element("section", summary.policy === samples.ppo ? "card ppo" : "card",
    element("header", "", element("h3", "", samples.policies[summary.policy]), element("span", "soft", `${words} ${words === 1 ? "word" : "words"}`)),
    text("p", "text", summary.text.trim() || "(empty)"),
    element("dl", "", ...scores));
}

function verdicts(post, texts) {
  if (samples.judge === "gold judge" && post.disagreement !== null)
    return element("p", post.disagreement > 0 ? "verdicts warn" : "verdicts soft", post.disagreement > 0
      ? `The reward model disagrees with the gold judge on ${Math.round(100 * post.disagreement)}% of the pairs of these ${words.responses}.`
      : `The reward model orders these ${words.responses} as the gold judge does.`);
  if (!texts.verdicts.length) return null;
  const lines = texts.verdicts.map(([i, j, first, second]) => {
    const [a, b] = first >= second ? [i, j] : [j, i];
    const name = k => samples.policies[texts.summaries[k].policy];
    const people = first === second
      ? `${name(a)} or ${name(b)}: people are evenly divided, ${first} to ${second}.`
      : `${name(a)} over ${name(b)}: ${Math.max(first, second)} of ${first + second} ${first + second > 1 ? "people" : "person"}.`;
    const [scoreA, scoreB] = [a, b].map(k => texts.summaries[k].score ?? null);
    const line = element("li", "", people);
    if (scoreA !== null && scoreB !== null && scoreA !== scoreB && first !== second) {
      const agrees = scoreA > scoreB;
      line.append(" ", element("span", agrees ? "soft" : "warn",
        `The reward model ${agrees ? "agrees" : "disagrees"}, ${number(scoreA, true)} against ${number(scoreB, true)}.`));
    }
    return line;
  });
  return element("div", "verdicts", element("h3", "", "What people preferred"), element("ul", "", ...lines));
}

function number(value, signed) {
  const digits = Math.abs(value).toFixed(signed ? 2 : 1);
  return (value < 0 ? "−" : signed ? "+" : "") + digits;
}

// An element with this text, what was searched for marked in it.
function text(tag, name, string) {
  const node = element(tag, name);
  node.dir = "auto";
  const wanted = query();
  let from = 0;
  if (wanted) {
    const lower = string.toLowerCase();
    for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
      node.append(string.slice(from, at), element("mark", "", string.slice(at, at + wanted.length)));
      from = at + wanted.length;
    }
  }
  node.append(string.slice(from));
  return node;
}

// ---- Events

fillFilters();
one("h1").textContent = samples.title;
let typing;
filters.query.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(search, 150);
});
filters.addEventListener("change", event => {
  if (event.target.name === "policy") return show();
  search();
  if (event.target.name === "order" && found.length) go(found[0]);
});
filters.addEventListener("reset", () => setTimeout(search));
filters.addEventListener("submit", event => event.preventDefault());
one(".previous").addEventListener("click", () => step(-1));
one(".next").addEventListener("click", () => step(1));
one(".toggle").addEventListener("click", event => {
  const open = one("aside").classList.toggle("open");
  event.target.setAttribute("aria-expanded", open);
});
one(".list").addEventListener("click", event => {
  if (!event.target.closest("a")) return;
  one("aside").classList.remove("open");
  one(".toggle").setAttribute("aria-expanded", false);
});
addEventListener("hashchange", () => {
  const post = addressed();
  if (post && post !== current) go(post);
});
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === filters.query) {
    if (event.key === "Escape" || event.key === "Enter") filters.query.blur();
    return;
  }
  if (event.target.matches("select")) return;
  if (event.key === "/") {
    event.preventDefault();
    one("aside").classList.add("open");
    filters.query.focus();
  }
  if (event.key === "ArrowRight" || event.key === "j") step(1);
  if (event.key === "ArrowLeft" || event.key === "k") step(-1);
});
filters.query.placeholder = filters.query.ariaLabel = `Search ${words.prompts} and ${words.responses}`;
current = addressed() ?? posts[0];
show();
