// The sample browser and the theme button. Model text is untrusted: it enters the page through
// textContent alone, never as HTML.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  const source = document.getElementById("sample-data");
  if (!source) return;
  const { samples, questions, runs } = JSON.parse(source.textContent);
  const PAGE = 24;
  const LOOK = {
    "kept": ["good", "✓"], "correct": ["good", "✓"], "correct, not kept": ["fair", "✓"],
    "incorrect": ["bad", "✗"], "no answer": ["bad", "∅"], "cut off": ["bad", "…"],
    "unverified": ["open", "?"],
  };
  const END = { "eos": "end of sequence", "stop": "stop string", "length": "length limit" };
  const control = (name) => document.getElementById("filter-" + name);
  const list = document.getElementById("cards");
  const found = document.getElementById("found");
  const more = document.getElementById("more");
  const where = (s) =>
    (runs.length > 1 ? runs[s.run] + " · " : "") +
    (s.set === "test" ? "test answers of " + (s.iteration ? "iteration " + s.iteration : "the base policy")
                      : "E-step of iteration " + s.iteration);

  const fill = (name, values, all) => {
    const select = control(name);
    select.add(new Option(all, ""));
    for (const value of values) select.add(new Option(value, value));
  };
  const distinct = (of) => [...new Set(samples.map(of))];
  fill("where", distinct(where), "all");
  fill("outcome", Object.keys(LOOK).filter((o) => samples.some((s) => s.outcome === o)), "any");
  fill("reason", distinct((s) => s.reason).filter(Boolean).sort(), "any");
  const rewards = distinct((s) => s.reward).filter((r) => r !== null).sort((a, b) => a - b);
  fill("reward", rewards.length <= 8 ? rewards.map(String) : ["0", "above 0"], "any");

  // Characters that would reverse or hide the text around them are shown by their code point.
  const visible = (text) =>
    String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g,
      (c) => "\u27e8U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e9");
  const add = (parent, tag, text, className) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = visible(text);
    parent.append(element);
    return element;
  };
  const card = (s) => {
    const box = document.createElement("article");
    box.className = "card";
    const meta = add(box, "div", undefined, "meta");
    const [look, mark] = LOOK[s.outcome] || ["open", "?"];
    add(meta, "span", mark + " " + s.outcome, "badge " + look);
    add(meta, "b", s.problem);
    add(meta, "span", "sample " + s.index);
    add(meta, "span", where(s));
    const question = questions[s.question];
    if (question) add(box, "pre", question.inputs);
    add(box, "pre", s.text || "(empty)");
    const facts = add(box, "dl");
    const fact = (name, value) => {
      if (value === null || value === undefined || value === "") return;
      add(facts, "dt", name);
      add(facts, "dd", value);
    };
    fact("answer found", s.extracted === null ? "none" : s.extracted);
    if (question) fact("gold answer", question.answer);
    fact("reward", s.reward === null ? "not verified" : s.reward + (s.reason ? ", by " + s.reason : ""));
    fact("reason", s.detail);
    fact("length", s.tokens + " tokens, ended by " + (END[s.finish] || s.finish || "unknown"));
    if (s.logprob !== null && s.tokens) {
      fact("log-probability", s.logprob.toFixed(1) + " nats, " + (s.logprob / s.tokens).toFixed(2) + " per token");
    }
    return box;
  };

  let matching = [];
  let shown = 0;
  const showMore = () => {
    list.append(...matching.slice(shown, shown + PAGE).map(card));
    shown = Math.min(matching.length, shown + PAGE);
    found.textContent = matching.length
      ? shown + " of " + matching.length + " matching samples shown"
      : "No embedded sample matches.";
    more.hidden = shown >= matching.length;
  };
  const apply = () => {
    const [place, outcome, reason, reward] = ["where", "outcome", "reason", "reward"].map((n) => control(n).value);
    const words = control("text").value.trim().toLowerCase();
    matching = samples.filter((s) =>
      (!place || where(s) === place) &&
      (!outcome || s.outcome === outcome) &&
      (!reason || s.reason === reason) &&
      (!reward || (reward === "above 0" ? s.reward > 0 : s.reward !== null && String(s.reward) === reward)) &&
      (!words || [s.problem, s.text, (questions[s.question] || {}).inputs || ""].some((t) => t.toLowerCase().includes(words))));
    list.replaceChildren();
    shown = 0;
    showMore();
  };
  for (const name of ["where", "outcome", "reason", "reward", "text"]) control(name).addEventListener("input", apply);
  more.addEventListener("click", showMore);
  document.getElementById("browser").hidden = false;
  apply();
})();
