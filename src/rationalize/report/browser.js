// The browser of questions. All text enters the page through textContent, so that nothing in it can run.
(() => {
  const source = document.getElementById("browser-data");
  if (!source) return; // a run without attempts to show
  const data = JSON.parse(source.textContent);
  const form = document.getElementById("controls");
  const cards = document.getElementById("cards");
  const pages = document.getElementById("pages");
  const count = document.getElementById("count");
  const names = ["sort", "metric", "a", "b", "split", "kind", "outcome", "q", "id"];
  const start = {
    sort: "gain",
    metric: data.metrics.some((m) => m.name === "nrg") ? "nrg" : "accuracy",
    a: data.pair[0] ?? data.methods[0],
    b: data.pair[1] ?? data.methods[0],
    split: "",
    kind: "",
    outcome: "",
    q: "",
    id: "", // one question, as links from other sections ask for
  };
  // checkboxes: the methods that are shown, and whether differing words are marked
  const boxes = [...form.querySelectorAll("[name=show]")];
  const words = form.elements.words;
  let page = 0;

  function node(tag, kind, text) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) {
      made.textContent = text;
      made.dir = "auto";
    }
    return made;
  }

  function number(value, metric) {
    return value.toFixed(metric.digits).replace("-", "−");
  }

  // A score: a number, null where undefined (the worst value counts), "" where the method has no such metric.
  function value(question, method, metric) {
    const attempt = question.attempts[method];
    const score = attempt ? attempt.scores[metric] : "";
    return score === "" ? NaN : (score ?? data.metrics[metric].worst);
  }

  function spread(question, metric) {
    const values = data.methods.map((_, m) => value(question, m, metric)).filter((v) => !Number.isNaN(v));
    if (values.length < 2) return NaN;
    const mean = values.reduce((x, y) => x + y) / values.length;
    return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length);
  }

  function key(question, s) {
    if (s.sort === "order") return 0;
    if (s.sort === "disagreement") return -spread(question, s.metric);
    const gain = value(question, s.a, s.metric) - value(question, s.b, s.metric);
    return s.sort === "gain" ? -gain : gain;
  }

  function haystack(question) {
    question.haystack ??= [
      question.id, question.context, question.question, question.gold, ...question.choices.map((c) => c[0]),
      ...question.attempts.map((a) => (a ? a.rationale : "")),
    ].join("\n").toLowerCase();
    return question.haystack;
  }

  function state() {
    const raw = Object.fromEntries(names.map((name) => [name, form.elements[name].value]));
    return {
      ...raw,
      metric: data.metrics.findIndex((m) => m.name === raw.metric),
      a: data.methods.indexOf(raw.a),
      b: data.methods.indexOf(raw.b),
      q: raw.q.trim().toLowerCase(),
      hidden: new Set(boxes.filter((box) => !box.checked).map((box) => data.methods.indexOf(box.value))),
      words: words.checked,
    };
  }

  // Whether the answers of the two compared, or of all methods shown, are as asked for.
  function fits(question, s) {
    if (!s.outcome) return true;
    const shown = question.attempts.filter((a, m) => a && !s.hidden.has(m));
    const right = shown.filter((a) => a.right).length;
    if (s.outcome === "differ") return right > 0 && right < shown.length;
    if (s.outcome === "none") return right === 0;
    const [x, y] = [question.attempts[s.a], question.attempts[s.b]];
    if (!x || !y) return false;
    return { gained: x.right && !y.right, lost: !x.right && y.right, both: x.right && y.right, neither: !x.right && !y.right }[s.outcome];
  }

  function chosen(s) {
    return data.questions
      .filter((q) => (!s.split || q.split === s.split) && (!s.kind || q.kind === s.kind))
      .filter((q) => !s.id || q.id === s.id)
      .filter((q) => !s.q || haystack(q).includes(s.q))
      .filter((q) => fits(q, s))
      .map((q) => [Number.isNaN(key(q, s)) ? Infinity : key(q, s), q])
      .sort((x, y) => (x[0] === y[0] ? 0 : x[0] - y[0])) // stable: equal keys keep the file's order
      .map(([, q]) => q);
  }

  // The rationale; with an attempt to compare it with, the words that only it has are marked.
  function rationale(attempt, other, tag) {
    if (!other) return node("p", "text", attempt.rationale);
    const text = node("p", "text", "");
    for (const [word, shared] of differing(attempt.rationale, other.rationale)) {
      text.append(shared ? word : node(tag, "", word), " ");
    }
    return text;
  }

  function attemptNode(question, method, s) {
    const attempt = question.attempts[method];
    const other = s.words && s.a !== s.b ? { [s.a]: question.attempts[s.b], [s.b]: question.attempts[s.a] }[method] : null;
    const box = node("div", "attempt " + (attempt.right ? "right" : "wrong"));
    box.append(node("h3", "", data.methods[method]), rationale(attempt, other, method === s.a ? "ins" : "del"));
    const answer = attempt.answer ?? "no answer read";
    box.append(node("p", "answer", `${attempt.right ? "✓" : "✗"} ${answer}${attempt.cut ? " (cut at the limit)" : ""}`));
    const scores = node("p", "scores");
    attempt.scores.forEach((score, i) => {
      const metric = data.metrics[i];
      if (score === "" || metric.name === "accuracy") return;
      const one = node("span", "", metric.title + " ");
      one.append(node("b", "", score === null ? "undefined" : number(score, metric)));
      scores.append(one);
    });
    box.append(scores);
    return box;
  }

  function card(question, s) {
    const box = node("article", "card");
    const where = node("p", "where");
    where.append(node("bdi", "", question.id), ` · ${question.split}`);
    if (question.kind) where.append(" · ", node("bdi", "", question.kind));
    const gain = value(question, s.a, s.metric) - value(question, s.b, s.metric);
    if (!Number.isNaN(gain) && s.a !== s.b) {
      const metric = data.metrics[s.metric];
      const kind = gain > 0 ? "gain better" : gain < 0 ? "gain worse" : "gain";
      const sign = gain > 0 ? "+" : "";
      where.append(" · ", node("span", kind, `${metric.title} ${sign}${number(gain, metric)}`));
    }
    box.append(where);
    if (question.context) box.append(node("p", "text", question.context));
    box.append(node("p", "question text", question.question));
    const choices = node("ul", "choices");
    for (const [text, gold] of question.choices) choices.append(node("li", gold ? "gold" : "", text));
    if (!question.choices.length) choices.append(node("li", "gold", question.gold));
    const attempts = node("div", "attempts");
    const order = [s.a, s.b, ...data.methods.keys()]; // the two compared stand first
    for (const m of new Set(order)) {
      if (question.attempts[m] && !s.hidden.has(m)) attempts.append(attemptNode(question, m, s));
    }
    box.append(choices, attempts);
    return box;
  }

  function draw() {
    const s = state();
    const found = chosen(s);
    const last = Math.max(0, Math.ceil(found.length / data.page) - 1);
    page = Math.min(Math.max(0, page), last);
    const from = page * data.page;
    const shown = found.slice(from, from + data.page);
    cards.replaceChildren(...shown.map((q) => card(q, s)));
    count.textContent = found.length ? `${from + 1}–${from + shown.length} of ${found.length} questions` : "No question fits.";
    pages.hidden = last === 0;
    pages.querySelector("span").textContent = `page ${page + 1} of ${last + 1}`;
    const [back, next] = pages.querySelectorAll("button");
    back.disabled = page === 0;
    next.disabled = page === last;
  }

  // #sort=loss&split=test&page=2 is a link to what the reader sees; plain anchors are left alone.
  function readHash() {
    if (location.hash && !location.hash.includes("=")) return;
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const name of names) {
      const control = form.elements[name];
      control.value = wanted.get(name) ?? start[name];
      if (control.value === "" && control.tagName === "SELECT") control.value = start[name];
    }
    const hidden = wanted.getAll("hide");
    for (const box of boxes) box.checked = !hidden.includes(box.value);
    words.checked = wanted.has("words");
    page = (parseInt(wanted.get("page"), 10) || 1) - 1;
  }

  function writeHash() {
    const now = new URLSearchParams();
    for (const name of names) if (form.elements[name].value !== start[name]) now.set(name, form.elements[name].value);
    for (const box of boxes) if (!box.checked) now.append("hide", box.value);
    if (words.checked) now.set("words", "1");
    if (page) now.set("page", page + 1);
    try {
      history.replaceState(null, "", "#" + (now.toString() || "browser"));
    } catch {
      // a sandboxed viewer refuses; the link is a convenience
    }
  }

  function turn(step) {
    page += step;
    draw();
    writeHash();
    form.scrollIntoView();
  }

  form.hidden = false;
  for (const name of names) form.elements[name].value = start[name];
  readHash();
  draw();
  if (location.hash.includes("=")) form.scrollIntoView();
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    form.elements.id.value = "";
    page = 0;
    draw();
    writeHash();
  });
  for (const button of pages.querySelectorAll("button")) {
    button.addEventListener("click", () => turn(Number(button.dataset.step)));
  }
  addEventListener("hashchange", () => {
    readHash();
    draw();
    if (location.hash.includes("=")) form.scrollIntoView();
  });
})();
