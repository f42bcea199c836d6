// The page: how the stream stands, what it remembers, and a box to ask in. Text from outside is set as text, never as markup.
const $ = (id) => document.getElementById(id);
const POLL_MS = 1500, PAGE = 25, LIVE = 8;
let key = sessionStorage.getItem("key") || "";
let opening = new URLSearchParams(location.search).get("q") || ""; // a page can be linked with its question
let stream = "", first = 0, asking = null, seen = new Set(), begun = false;

function el(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (name) made.className = name;
  return made;
}

async function call(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401 || response.status === 403) $("key").hidden = false;
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message || `${response.status} ${response.statusText}`);
  }
  return response;
}

const get = async (path) => (await call(path)).json();

function ago(iso) {
  if (!iso) return "never";
  const seconds = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
  for (const [size, unit] of [[86400 * 365, "year"], [86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]]) {
    if (seconds >= size) { const n = Math.floor(seconds / size); return `${n} ${unit}${n > 1 ? "s" : ""} ago`; }
  }
  return "now";
}

const number = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));

function titled(document_, target) {
  const title = document_.title || document_.document_id;
  if (/^https?:\/\//i.test(document_.link || "")) {
    const link = el("a", title);
    link.href = document_.link; link.rel = "noopener noreferrer nofollow"; link.target = "_blank";
    target.append(link);
  } else target.append(el("span", title));
  const when = document_.published_at ? `${document_.published_at.slice(0, 16).replace("T", " ")} UTC (${ago(document_.published_at)})` : "";
  const place = `${document_.topic}/${document_.partition}@${document_.offset}`;
  const score = document_.score !== undefined ? `${Math.round(100 * document_.score)} %` : "";
  target.append(el("span", [document_.source, when, place, score].filter(Boolean).join(" · "), "meta"));
  return target;
}

function showReplicas(replicas) {
  $("replicas").replaceChildren(...replicas.map((each) => {
    const box = el("div", null, "replica");
    const role = each.role ? `, ${each.role}${each.behind_commits ? `, ${number(each.behind_commits)} commits behind` : ""}` : "";
    box.append(el("span", `replica ${each.replica}: ${each.phase}${role}`, `phase ${each.phase}`));
    const list = el("dl");
    const facts = [
      ["behind", each.lag === null ? "–" : each.caught_up ? "0" : number(each.lag)],
      ["complete up to", ago(each.complete_up_to)], ["newest event", ago(each.watermark)],
      ["documents", number(each.remembered_documents)], ["blocks", number(each.remembered_updates)],
      ["learned", number(each.counts.applied || 0)], ["answering", `${each.running_answers} + ${each.waiting_answers} waiting`],
      ["snapshot", each.epoch === null ? "none yet" : `${each.epoch}, ${Math.round(each.epoch_age_s)} s old`], ["device", `${each.device || "–"} on ${each.node || "–"}`],
    ];
    for (const [name, value] of facts) { const cell = el("div"); cell.append(el("dt", name), el("dd", value)); list.append(cell); }
    box.append(list);
    for (const problem of [each.problem, each.snapshot_problem]) if (problem) box.append(el("p", problem, "problem"));
    return box;
  }));
}

async function refreshDocuments() {
  const query = new URLSearchParams({ stream, q: $("search").value, limit: PAGE, offset: first });
  const page = await get(`/v1/knowledge/documents?${query}`);
  $("total").textContent = `${number(page.total)} document${page.total === 1 ? "" : "s"}`;
  $("documents").replaceChildren(...page.documents.map((each) => titled(each, el("li"))));
  $("newer").disabled = first === 0;
  $("older").disabled = first + PAGE >= page.total;
}

async function refreshLive() {
  const page = await get(`/v1/knowledge/documents?${new URLSearchParams({ stream, limit: LIVE })}`);
  const items = page.documents.map((each) => {
    const name = `${each.topic}/${each.partition}@${each.offset}`;
    const item = titled(each, el("li", null, begun && !seen.has(name) ? "new" : ""));
    item.dataset.place = name;
    return item;
  });
  const now = items.map((item) => item.dataset.place).join();
  if ($("live").dataset.now === now) return false;
  $("live").dataset.now = now;
  $("live").replaceChildren(...items);
  items.forEach((item) => seen.add(item.dataset.place));
  if (seen.size > 1000) seen = new Set(items.map((item) => item.dataset.place));
  begun = true;
  return true;
}

async function refresh() {
  try {
    const models = (await get("/v1/models")).data.map((each) => each.id);
    if (models.join() !== $("stream").dataset.models) {
      $("stream").dataset.models = models.join();
      $("stream").replaceChildren(...models.map((name) => { const o = el("option", name); o.value = name; return o; }));
      if (!models.includes(stream)) stream = models[0] || "";
      $("stream").value = stream;
    }
    if (stream) {
      showReplicas((await get(`/v1/knowledge?${new URLSearchParams({ stream })}`)).replicas);
      if (await refreshLive()) await refreshDocuments();
    }
    if (stream && opening) { const q = opening; opening = ""; $("question").value = q; ask(q); }
    const ready = await (await fetch("/ready")).json();
    $("ready").textContent = ready.ready ? "ready" : ready.reasons.join("; ");
  } catch (error) {
    $("ready").textContent = error.message;
  }
  setTimeout(refresh, document.hidden ? 5 * POLL_MS : POLL_MS);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

async function ask(question) {
  asking?.abort();
  asking = new AbortController();
  $("answer").className = ""; $("answer").textContent = "…"; $("sources").replaceChildren(); $("known").textContent = "";
  $("stop").hidden = false;
  try {
    const body = JSON.stringify({ model: stream, stream: true, messages: [{ role: "user", content: question }] });
    const response = await call("/v1/chat/completions", { method: "POST", body, signal: asking.signal, headers: { "Content-Type": "application/json" } });
    let text = "";
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      text += event.choices?.[0]?.delta?.content || "";
      $("answer").textContent = text || "…";
      if (event.knowledge) showKnown(event.knowledge);
    }
    if (!text) $("answer").textContent = "(no words)";
  } catch (error) {
    if (error.name !== "AbortError") { $("answer").className = "error"; $("answer").textContent = error.message; }
  }
  $("stop").hidden = true;
}

function showKnown(known) {
  $("sources").replaceChildren(...known.sources.map((each) => titled(each, el("li"))));
  const read = known.grounded === false ? "No remembered document tells: the base model answers." : "";
  $("known").textContent = [read, `replica ${known.replica}, version ${known.version}, complete up to ${ago(known.complete_up_to)}`].filter(Boolean).join(" ");
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); const q = $("question").value.trim(); if (q) ask(q); });
$("stop").addEventListener("click", () => asking?.abort());
$("stream").addEventListener("change", () => { stream = $("stream").value; first = 0; begun = false; seen = new Set(); $("live").dataset.now = ""; });
let typing;
$("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { first = 0; refreshDocuments().catch(() => {}); }, 250); });
$("newer").addEventListener("click", () => { first = Math.max(0, first - PAGE); refreshDocuments().catch(() => {}); });
$("older").addEventListener("click", () => { first += PAGE; refreshDocuments().catch(() => {}); });
$("key").addEventListener("click", () => $("key-dialog").showModal());
$("key-dialog").addEventListener("close", () => { if ($("key-value").value) { key = $("key-value").value; sessionStorage.setItem("key", key); $("key").hidden = true; } });
refresh();
