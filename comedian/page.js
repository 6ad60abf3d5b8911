"use strict"
const D = JSON.parse(document.getElementById("data").textContent)
const $ = id => document.getElementById(id), LEAD_S = 3, LAG_S = 3
const make = (tag, props = {}, ...inside) => { const e = Object.assign(document.createElement(tag), props); e.append(...inside); return e }
// An item is a spotted action, a label, or an action that was added: what a review can be of. Its id is made of what it was,
// so that a review finds it again in other results of the match. D.events: [half, ms, class, confidence, picture or ""];
// D.truth: [half, ms, name, what else its file says of it, picture or ""], or null. Those of no class or half here are saved, but not shown.
const items = new Map(), judged = !!D.truth && D.spotted
const record = e => e && { what: e.what, half: e.half, ms: e.ms, label: e.label, state: e.state, pin: e.pin, more: e.more }
function put(what, half, ms, label, rest) {
  let id = `${what} ${half} ${ms} ${label}`
  while (items.has(id)) id += "'"
  const e = { id, what, half, ms, label, state: "", pin: null, more: {}, ...rest }
  items.set(id, { ...e, was: record(e) })
}
for (const [half, ms, label, score, picture] of D.events) put("spot", half, ms, D.classes[label], { score, picture })
for (const [half, ms, label, more, picture] of D.truth || []) put("label", half, ms, label, { more, picture })
const on = new Set(D.classes)
let half = D.halves[0], least = D.least, chosen = null, rows = [], position = half.start
let view = [half.start, half.end], bounds = view.slice()

// ---- reviews. A step is [[id, record before, record after], ...]; null: there is no such item.
const KEY = JSON.stringify(["comedian", D.match, D.hash]), done = [], undone = []
const known = e => D.classes.includes(e.label) && D.halves.some(h => h.n === e.half)
const reviews = () => Object.fromEntries([...items.values()].filter(e => e.state).map(e => [e.id, record(e)]))
const NOT_KEPT = "this browser keeps nothing for this page: save Labels-v2.json before you leave it"
let exported = "{}", head = D.head          // the reviews that a file has; what else a file of labels said at its top
const dirty = () => JSON.stringify(reviews()) !== exported
function set(id, r) {
  if (!r) return items.delete(id)
  if (!items.has(id)) items.set(id, { id, what: "added", half: r.half, score: 1 })
  Object.assign(items.get(id), { ms: r.ms, label: r.label, state: r.state, pin: r.pin, more: r.more })
}
function change(...pairs) {                // (item or id of a new one, its new fields) ...
  const step = pairs.map(([e, now]) => e.id ? [e.id, record(e), now && { ...record(e), ...now }] : [e, null, now])
  for (const [id, , after] of step) set(id, after)
  done.push(step); undone.length = 0
  keep()
}
function undo(from = done, to = undone, which = 1) {
  const step = from.pop()
  if (!step) return note(`nothing to ${which === 1 ? "undo" : "redo"}`)
  for (const one of step) set(one[0], one[which])
  to.push(step)
  keep(); update()
  const e = step.length && items.get(step[0][0]), its = e && D.halves.find(h => h.n === e.half)
  if (its && its !== half) setHalf(its)
  if (e) choose(rows.includes(e) ? e : e.hit, false)
}
function keep() {                          // in the browser, at once
  try { localStorage.setItem(KEY, JSON.stringify({ when: new Date().toISOString(), exported: !dirty(), head, reviews: reviews() })) }
  catch { note(NOT_KEPT) }
}
function replace(next) {                   // the reviews, by others of the same results: the step that does it
  const step = [...items.values()].filter(e => e.state && !next[e.id]).map(e => [e.id, record(e), e.was || null])
  for (const [id, r] of Object.entries(next)) step.push([id, record(items.get(id)) || null, r])
  for (const [id, , after] of step) set(id, after)
  return step
}
function takeOver(next) { done.push(replace(next)); undone.length = 0; keep(); update() }
function fit(records) {                    // [id, record] of other results, as far as they fit: [reviews of these, how many do not]
  const next = {}, old = Object.fromEntries(records), at = r => [...items.values()].filter(e => e.was && e.half === r.half && e.was.ms === r.ms && e.was.label === r.label)
  const keep = (e, r) => next[e.id] = { ...e.was, state: "accepted", more: r.what === "added" ? { ...e.was.more, ...r.more } : e.was.more }
  let lost = 0
  for (const [id, r] of records) {
    const there = at(old[r.pin] || r), label = there.find(e => e.what === "label"), spot = there.find(e => e.what === "spot"), e = items.get(id)
    const pin = label ? label.id : items.has(r.pin) ? r.pin : null
    if (e && e.was) next[id] = { ...r, pin: r.what === "spot" && r.state === "accepted" ? pin : r.state === "rejected" && items.has(r.pin) ? r.pin : null }
    else if (label && r.state !== "rejected") keep(label, r)
    else if (r.state === "rejected" || r.pin) lost += !items.has(r.pin)
    else if (spot) keep(spot, r)
    else next[id] = { ...r, what: "added", state: "accepted", pin: null }
  }
  return [next, lost]
}
// As Python's int and comedian/labels.py's read_rows: position, else the last two digits each of minutes and seconds; tests/test_page.py has a table for both.
const int = v => v && typeof v === "object" || v === null || typeof v === "string" && !/^\s*[+-]?\d+\s*$/.test(v) ? NaN : Math.trunc(v)
function read({ gameTime, label, position, ...more }) {
  const n = int(gameTime[0]), clock = 1000 * (60 * int(gameTime.slice(-5, -3)) + int(gameTime.slice(-2))), ms = position === undefined ? clock : int(position)
  if (!Number.isFinite(n + clock + ms) || Math.abs(ms) > 2 ** 53 || label === undefined || label && typeof label === "object") throw 0
  return { what: "added", half: n, ms, label, state: "accepted", pin: null, more }
}
function load(text, name) {                // a Labels-v2.json; ours has the reviews besides
  let found, next, rest
  try {
    const { UrlLocal, annotations, review, ...others } = JSON.parse(text), last = match => String(match).split("/").filter(Boolean).pop()
    found = annotations.map(read); rest = others
    if (review && last(UrlLocal) !== last(D.match) && !confirm(`${name} has labels of ${last(UrlLocal)}. Load them for ${last(D.match)}?`)) return
    if (dirty() && !confirm(`What you did here since you saved it gives place to ${name}. Load it?`)) return
    if (review && review.hash === D.hash) {
      next = review.reviews
      if (!Object.values(next).every(r => r.label !== undefined && Number.isFinite(r.ms) && Number.isInteger(r.half))) throw 0
      if (review.shown) see(review.shown)
    } else {
      const gone = [...items.values()].filter(e => (e.what === "label" ? known(e) : !D.truth && e.was && shown(e)) && !found.some(r => r.half === e.half && r.ms === e.was.ms && r.label === e.was.label))      // the file says what there is
      next = fit(found.map((r, i) => [`added ${r.half} ${r.ms} ${r.label} ${i}`, r]))[0]
      for (const e of gone) next[e.id] = { ...e.was, state: "rejected" }
    }
  } catch { return note(`${name}: no labels that can be read; choose a Labels-v2.json`) }
  head = { ...head, ...rest }
  takeOver(next)
  exported = JSON.stringify(reviews()); keep()
  const hidden = found.filter(r => !known(r)).length
  note(`${name}: ${found.length} labels loaded` + (hidden ? `; ${hidden} of no class or half here: not shown, but saved again` : ""))
}
function restore() {                       // what the browser has kept, of these results or others
  try {
    const kept = JSON.parse(localStorage.getItem(KEY))
    if (kept) return hear(kept)
    const others = Object.keys(localStorage).filter(key => key.startsWith(KEY.slice(0, -D.hash.length - 2))).map(key => JSON.parse(localStorage.getItem(key)))
    const last = others.filter(o => Object.keys(o.reviews).length).sort((a, b) => a.when < b.when ? 1 : -1)[0]
    if (last) note(`The results have changed since the review of ${last.when.slice(0, 10)}: this page starts clean. `, make("button", { textContent: "take over what fits", onclick: () => {
      const [next, lost] = fit(Object.entries(last.reviews))
      takeOver({ ...next, ...reviews() }); note(`${Object.keys(next).length} reviews taken over` + (lost ? `; ${lost} fit nothing here` : ""))
    } }))
  } catch { note(NOT_KEPT) }
}
function hear(kept) { replace(kept.reviews); head = kept.head || head; if (kept.exported) exported = JSON.stringify(reviews()) }
onstorage = e => { if (e.key === KEY && e.newValue) { hear(JSON.parse(e.newValue)); update() } }                  // from another tab
onbeforeunload = e => { if (dirty()) e.preventDefault() }
function note(...parts) { $("note").replaceChildren(...parts) }

// ---- what is shown: list, timeline and exports all ask here
const real = e => e.state === "accepted" && e.hit || e        // an accepted action is where its label is
const shown = e => on.has(real(e).label) && known(real(e)) && (e.what !== "spot" || e.score >= least || e.state === "accepted")
function see([confidence, reach, names]) { least = $("least").value = +confidence; $("tolerance").value = reach; on.clear(); D.classes.forEach(name => names.includes(name) && on.add(name)) }
const tolerance = () => 1000 * (+$("tolerance").value || 2.5)
const free = t => t.what === "label" && !t.hit && t.state !== "rejected"
function nearest(e, label = e.label) {   // the label that an action is of, if it is of one
  const reach = tolerance()
  return [...items.values()].filter(t => free(t) && t.half === e.half && t.label === label && Math.abs(t.ms - e.ms) <= reach)
    .sort((a, b) => Math.abs(a.ms - e.ms) - Math.abs(b.ms - e.ms))[0]
}
function match() {                       // each true action takes the surest spotted one in reach; a review keeps its label
  const spots = new Map(), all = [...items.values()], reach = tolerance(), lane = e => `${e.half} ${e.label}`
  for (const e of all) { e.hit = null; e.kind = "" }
  for (const e of all) if (e.pin && items.has(e.pin)) { e.hit = items.get(e.pin); e.hit.hit = e }
  if (!judged) return
  for (const e of all) if (e.what === "spot" && !e.state && shown(e)) { if (spots.has(lane(e))) spots.get(lane(e)).push(e); else spots.set(lane(e), [e]) }
  for (const t of all.filter(free).sort((a, b) => a.ms - b.ms)) {
    const near = (spots.get(lane(t)) || []).filter(e => !e.hit && Math.abs(e.ms - t.ms) <= reach)
    t.hit = near.reduce((best, e) => !best || e.score > best.score ? e : best, null)
    if (t.hit) t.hit.hit = t
  }
  for (const e of all) e.kind = e.what === "spot" ? e.hit || e.state === "accepted" ? "hit" : "false" : e.what === "label" && e.state !== "rejected" ? e.hit ? "hit" : "missed" : ""
}

// ---- time
const video = $("video"), frame = $("frame")
const clock = s => `${Math.floor(Math.max(0, s) / 60)}:${String(Math.floor(Math.max(0, s) % 60)).padStart(2, "0")}`
const said = url => { try { return decodeURIComponent(url) } catch { return url } }      // a name that is not UTF-8
const isVideo = () => !half.frames, write = (e, text) => { if (e.textContent !== text) e.textContent = text }     // else it is laid out again
let ticking = 0                          // of frames that are played: when the last one was drawn, ms
function seek(s) {
  position = Math.min(Math.max(s, half.start), half.end)
  if (isVideo()) { try { video.currentTime = position } catch { /* not loaded yet */ } }
  moved()
}
function moved() {
  if (half.frames) {
    const n = Math.min(Math.max(0, Math.floor((position - half.start) * half.frames.fps)), half.frames.n - 1)
    const source = half.frames.path + String(half.frames.first + n).padStart(half.frames.digits, "0") + half.frames.suffix
    if (frame.dataset.source !== source) { frame.dataset.source = source; frame.src = source }
  }
  write($("time"), `${clock(position)} of ${clock(half.end)}`)
  if (position < view[0] || position > view[1]) { const w = view[1] - view[0]; setView(position - w / 10, position + w * 0.9) }
  $("cursor").style.transform = `translateX(${toX(position)}px)`
}
function play() {
  if (isVideo()) return video.paused ? video.play().catch(() => {}) : video.pause()
  ticking = ticking ? 0 : performance.now()
  if (ticking) requestAnimationFrame(tick)
  $("play").textContent = ticking ? "pause" : "play"
}
function tick(now) {                     // while it plays: the cursor, with every picture of the screen
  if (isVideo()) position = video.currentTime
  else if (ticking) { position += Math.max(0, now - ticking) / 1000; ticking = now }
  if (position >= half.end && ticking) { position = half.end; play() }
  moved()
  if (ticking || isVideo() && !video.paused) requestAnimationFrame(tick)
}
video.ontimeupdate = () => { if (isVideo()) { position = video.currentTime; moved() } }
video.onplay = video.onpause = () => { $("play").textContent = video.paused ? "play" : "pause"; if (!video.paused) requestAnimationFrame(tick) }
video.onerror = () => half.video ? unplayable(said(half.video)) : lacks("the results do not say where the video is")
video.onloadedmetadata = () => {
  if (!video.videoWidth) return unplayable(said(half.video))                // sound alone: it knows not the picture's codec
  if (!D.spotted && isFinite(video.duration)) { half.end = bounds[1] = video.duration; setView(...bounds) }
  $("none").hidden = true; video.hidden = false; video.currentTime = position
}
frame.onerror = () => lacks(`no frames at ${said(half.frames.path)}`)
frame.onload = () => $("none").hidden = true
function unplayable(path) {
  const quoted = s => /["$`\\!]/.test(s) ? `'${s.replace(/'/g, "'\\''")}'` : `"${s}"`
  lacks(`this browser cannot load ${path}. If it is there, make one that it can play, and choose that:`,
    `ffmpeg -i ${quoted(path)} -c:v libx264 -pix_fmt yuv420p -c:a aac ${quoted(path.replace(/\.\w+$/, "") + ".browser.mp4")}`)
}
function lacks(text, line = "") { $("why").textContent = text; $("ffmpeg").textContent = line; $("ffmpeg").hidden = !line; $("none").hidden = false; video.hidden = true }
function show(file) { half.frames = null; half.video = URL.createObjectURL(file); loadVideo() }
function loadVideo() {
  frame.hidden = isVideo(); video.hidden = !isVideo(); $("none").hidden = true
  if (ticking) play()
  if (isVideo()) { if (half.video) video.src = half.video; else video.onerror() } else { video.removeAttribute("src"); frame.dataset.source = "" }
}
function setHalf(next) {
  half = next; position = half.start; bounds = [half.start, half.end]; view = bounds.slice(); chosen = null
  for (const b of $("halves").children) b.setAttribute("aria-pressed", b.dataset.n == half.n)
  loadVideo(); update(); moved()
}

// ---- the list
const strip = make("div", { id: "edit" }), kinds = make("select", { title: "key c" })
kinds.setAttribute("aria-label", "class of this action")
const buttons = Object.fromEntries(Object.entries({ a: "", r: "", d: "", "[": "−½ s", ",": "−1 frame", ".": "+1 frame", "]": "+½ s", m: "move here" }).map(
  ([key, textContent]) => [key, make("button", { textContent, title: "key " + key, onclick: () => edit(key) })]))
strip.append(...Object.values(buttons), kinds)
kinds.onchange = () => edit("c", kinds.value)
function peak(e) {                       // how sure the network is, of a label by the scores about it
  if (e.what === "spot") return e.score
  const h = D.halves.find(h => h.n === e.half), k = D.classes.length, at = D.classes.indexOf(e.label), t = Math.floor((e.ms / 1000 - h.start) / h.token)
  let most = 0
  for (let i = Math.max(0, t - 2); i <= t + 2; i++) most = Math.max(most, h.scores[i * k + at] || 0)
  return most / 255
}
const unsure = (a, b) => Math.abs(peak(a) - 0.5) - Math.abs(peak(b) - 0.5)
const inTime = (a, b) => real(a).ms - real(b).ms
function update() {
  const focus = document.activeElement
  match()
  rows = [...items.values()].filter(e => e.half === half.n && shown(e) && !(e.what === "label" && e.hit)).sort($("order").getAttribute("aria-pressed") === "true" ? unsure : inTime)
  if (!rows.includes(chosen)) { chosen = null; strip.remove() }
  let next = $("list").firstChild
  for (const e of rows) { fill(e); if (e.row === next) next = next.nextSibling; else $("list").insertBefore(e.row, next) }
  while (next) { const gone = next; next = next.nextSibling; gone.remove() }
  if (focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true })
  else if (!focus.isConnected) $("list").focus({ preventScroll: true })
  const tell = { hit: 0, missed: 0, false: 0 }, number = new Map(D.classes.map(name => [name, 0]))
  for (const e of rows) if (e.kind) tell[e.kind]++
  for (const e of items.values()) if (e.half === half.n && e.what !== "label" && (e.what === "added" || e.score >= least || e.state === "accepted")) number.set(real(e).label, number.get(real(e).label) + 1)
  const some = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`
  write($("count"), judged ? `${some(tell.hit, "hit")}, ${tell.missed} missed, ${some(tell.false, "false alarm")}` : some(rows.length, "action"))
  write($("reviewed"), `reviewed ${rows.filter(e => e.state).length} of ${rows.length}`)
  write($("leastText"), least.toFixed(2))
  for (const chip of $("chips").querySelectorAll(".chip")) {
    if (chip.getAttribute("aria-pressed") !== String(on.has(chip.name))) chip.setAttribute("aria-pressed", on.has(chip.name))
    write(chip.lastChild, " " + number.get(chip.name))
  }
  draw()
}
function fill(e) {
  const word = e.what === "added" ? "added" : e.state === "rejected" && (e.what === "label" || e.pin) ? "deleted" : e.state || { false: "false alarm" }[e.kind] || e.kind
  const texts = [clock(real(e).ms / 1000), real(e).label, word, e.what === "spot" ? e.score.toFixed(2) : ""], now = [...texts, e.state, e === chosen].join()
  if (!e.row) {
    e.row = make("li", {}, make("button", { className: "go", onclick: () => choose(e) },
      e.picture ? make("img", { src: "data:image/jpeg;base64," + e.picture, alt: "", loading: "lazy" }) : make("span", { className: "blank" }),
      make("b"), make("span", { className: "name" }), make("span"), make("span", { className: "conf" })))
  }
  if (e.now === now) return
  const go = e.row.firstChild
  e.now = now; e.row.className = `${e.state} ${e === chosen ? "on" : ""}`
  texts.forEach((text, i) => write(go.children[i + 1], text))
  go.children[3].className = `kind ${e.state || e.kind}`; go.children[3].hidden = !word
  if (e === chosen) go.setAttribute("aria-current", "true"); else go.removeAttribute("aria-current")
}
function tools() {                       // the buttons of the chosen row: each says what it does to a label
  const e = chosen, label = e.what === "label" || !!e.hit
  write(buttons.a, e.what === "label" ? "keep" : "accept"); buttons.a.hidden = e.what === "added"
  write(buttons.r, e.hit ? "reject, keep the label" : "reject"); buttons.r.hidden = e.what !== "spot"
  write(buttons.d, label ? "delete the label" : "delete"); buttons.d.hidden = !label && e.what !== "added"
  kinds.value = real(e).label
  const focus = document.activeElement
  if (strip.parentNode !== e.row) e.row.append(strip)
  if (strip.contains(focus) && !focus.hidden) focus.focus({ preventScroll: true })
  else if ($("list").contains(focus) || strip.contains(focus)) e.row.firstChild.focus({ preventScroll: true })
}
function choose(e, jump = true) {
  if (!e) return
  const old = chosen
  chosen = e
  for (const one of [old, e]) if (one && one.row) fill(one)
  tools()
  e.row.scrollIntoView({ block: "nearest" })
  if (jump) seek(real(e).ms / 1000 - LEAD_S)
  draw()
}
function step(way, wanted = () => true) {
  const at = chosen ? rows.indexOf(chosen) : rows.findIndex(e => e.ms / 1000 >= position) - (way > 0 ? 1 : 0)
  for (let i = at + way; i >= 0 && i < rows.length; i += way) if (wanted(rows[i])) { choose(rows[i]); return true }
  return false
}
function nextError() {
  const wrong = e => !e.state && (e.kind === "missed" || e.kind === "false")
  if (!step(1, wrong)) choose(rows.find(wrong))            // from the top again
}
function nextUnsure() {                  // what to label next: of this half, that of which the network is least sure
  const order = [...rows].sort(unsure), at = order.indexOf(chosen) + 1
  choose([...order.slice(at), ...order.slice(0, at)].find(e => !e.state))
  if (rows.every(e => e.state)) note("all actions of this half are reviewed")
}
function edit(key, value) {
  const e = chosen
  if (!e) return note("choose an action first: j, or a click")
  const spot = e.what === "spot", looks = spot && !"rd".includes(key) && (key === "c" || e.state !== "accepted")
  const t = e.hit || (looks && nearest(e, key === "c" ? value : e.label)) || null, pin = t && t.id
  const revive = t && t.state === "rejected" ? [[t, { state: t.ms === t.was.ms && t.label === t.was.label ? "" : "accepted" }]] : []
  if (key === "a" && e.what !== "added") change([e, { state: "accepted", pin }], ...revive)
  else if (key === "r" && spot) change([e, { ...e.was, state: "rejected", pin: null }], ...revive)
  else if ((key === "d" || key === "r") && e.what === "added") {
    const at = rows.indexOf(e)
    change([e, null]); update(); choose(rows[Math.min(at, rows.length - 1)], false)
    if (chosen && document.activeElement === $("list")) chosen.row.firstChild.focus({ preventScroll: true })
    return
  }
  else if (key === "d" || key === "r") change([e, { state: "rejected", pin: spot ? pin : null }], ...(spot && t ? [[t, { state: "rejected" }]] : []))
  else if (key !== "a") {
    const target = t || e, frame = 1000 / half.fps, by = { "[": -500, "]": 500, ",": -frame, ".": frame }[key]
    const ms = Math.min(Math.max(1000 * half.start, Math.round(key === "m" ? 1000 * position : target.ms + (by || 0))), Math.ceil(1000 * half.end))
    if (key === "c") on.add(value)
    change([target, { state: "accepted", ms, label: key === "c" ? value : target.label, ...(t ? {} : { pin: null }) }], ...(t ? [[e, { state: "accepted", pin }]] : []).filter(() => spot))
    if (by) seek(ms / 1000)
  }
  update(); if (rows.includes(e)) choose(e, false)
}
function add() {
  const ms = Math.round(1000 * position), label = $("class").value
  on.add(label)
  let e = [...items.values()].find(e => e.what !== "spot" && e.half === half.n && e.ms === ms && e.label === label && e.state !== "rejected")
  const id = `added ${half.n} ${ms} ${label} ${Date.now()}`
  if (!e) { change([id, { what: "added", half: half.n, ms, label, state: "accepted", pin: null, more: {} }]); e = items.get(id) }
  update(); choose(rows.includes(e) ? e : e.hit, false)
}

// ---- exports: the same texts as comedian/export.py
const long = (ms, decimal, hours) => {
  ms = Math.max(0, Math.round(ms)); const two = n => String(n).padStart(2, "0"), m = Math.floor(ms / 60000)
  return (hours ? `${two(Math.floor(m / 60))}:${two(m % 60)}` : two(m)) + `:${two(Math.floor(ms / 1000) % 60)}${decimal}${String(ms % 1000).padStart(3, "0")}`
}
const plain = s => s.replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]/g, " "), escaped = s => s.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")
const cell = s => (s = s.replace(/^(?='*[=+\-@\t\r])/, "'"), /[",\r\n]/.test(s) ? `"${s.replace(/"/g, '""')}"` : s)
// Spotted actions that are shown and not rejected, and what was added or kept: for clips, tables, other programs.
const kept = () => [...items.values()].filter(e => shown(e) && e.state !== "rejected" && (e.what === "spot" || e.state && !(e.what === "label" && e.hit)))
  .map(e => e.what === "label" ? { ...e, score: 1 } : e)
// The labels, corrected, the alarms that were accepted, and what was added. Where there were none, also all that is shown and not reviewed.
const labels = () => [...items.values()].filter(e => e.state !== "rejected" && (e.what !== "spot" || !e.pin && (e.state === "accepted" || !D.truth && shown(e))))
function text(kind) {
  const all = kept().map(e => ({ ...real(e), score: e.score })).sort((a, b) => a.half - b.half || a.ms - b.ms), one = all.filter(e => e.half === half.n)
  const cues = decimal => one.map((e, i) => `${i + 1}\n${long(e.ms - 1000 * LEAD_S, decimal, true)} --> ${long(e.ms + 1000 * LAG_S, decimal, true)}\n` +
    `${(decimal === "." ? escaped : s => s)(plain(e.label))} ${e.score.toFixed(2)}\n`)
  if (kind === "csv") return "video,half,time,label,confidence\n" + all.map(e => [cell(D.halves.find(h => h.n === e.half).table), e.half, long(e.ms, "."), cell(e.label), e.score.toFixed(4)].join() + "\n").join("")
  if (kind === "vtt") return "WEBVTT\n" + cues(".").map(c => "\n" + c).join("")
  if (kind === "srt") return cues(",").join("\n")
  if (kind === "sportscode") return '<?xml version="1.0" encoding="UTF-8"?>\n<file>\n<ALL_INSTANCES>\n' + one.map((e, i) =>
    `<instance><ID>${i + 1}</ID><start>${(Math.max(0, e.ms / 1000 - LEAD_S)).toFixed(3)}</start><end>${(e.ms / 1000 + LAG_S).toFixed(3)}</end><code>${escaped(plain(e.label))}</code>` +
    `<label><group>confidence</group><text>${e.score.toFixed(2)}</text></label><label><group>position_ms</group><text>${e.ms}</text></label></instance>\n`).join("") + "</ALL_INSTANCES>\n</file>\n"
  if (kind === "osl") return JSON.stringify({ version: "2.0", task: "action_spotting", labels: { action: { type: "single_label", labels: D.classes } },
    data: D.halves.map(h => ({ id: `${D.match}/${h.n}`, inputs: [{ type: "video", path: h.name, fps: 2 }], events: all.filter(e => e.half === h.n).map(e =>
      ({ head: "action", label: e.label, position_ms: e.ms, frame: Math.floor(2 * e.ms / 1000), half: String(e.half), gameTime: `${e.half} - ${long(e.ms, ".").slice(0, -4)}`, confidence: e.score })) })) }, null, 1) + "\n"
  const annotations = labels().sort((a, b) => a.half - b.half || a.ms - b.ms).map(e => {
    const own = { gameTime: `${e.half} - ${long(e.ms, ".").slice(0, -4)}`, label: e.label, position: String(e.ms) }
    return { ...own, team: "not applicable", visibility: "visible", ...e.more, ...own }
  })
  return JSON.stringify({ UrlLocal: D.match, ...head, annotations, review: { hash: D.hash, shown: [least, $("tolerance").value, [...on]], reviews: reviews() } }, null, 1) + "\n"
}
const FILES = { csv: "actions.csv", osl: "actions.json", labels: "Labels-v2.json" }, ENDINGS = { vtt: "vtt", srt: "srt", sportscode: "xml" }
function save(kind) {
  const a = make("a", { href: URL.createObjectURL(new Blob([text(kind)], { type: "text/plain" })), download: FILES[kind] || `actions_${half.n}.${ENDINGS[kind]}` })
  a.click()
  if (kind === "labels") { exported = JSON.stringify(reviews()); keep() }
  setTimeout(() => URL.revokeObjectURL(a.href), 1000)
}

// ---- the lanes
const canvas = $("canvas"), ROW = 30, FOOT = 22
for (const h of D.halves) h.scores = Uint8Array.from(atob(h.curves), c => c.charCodeAt(0))        // token k, class c: [k * K + c]
let W = canvas.clientWidth               // asked once: a hundred thousand questions take a second
const left = () => W < 600 ? 86 : 138
const toX = s => left() + (W - left() - 8) * (s - view[0]) / (view[1] - view[0])
const toS = x => view[0] + (view[1] - view[0]) * (x - left()) / (W - left() - 8)
function setView(from, to) {
  const width = Math.min(Math.max(to - from, 10), bounds[1] - bounds[0])
  from = Math.min(Math.max(from, bounds[0]), bounds[1] - width)
  view = [from, from + width]
  draw()
}
function zoom(by, around = position) { setView(around - (around - view[0]) * by, around + (view[1] - around) * by) }
let drawing = 0, ground = null, grounded = ""
function draw() { if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; paint() }) }
function paint() {
  const lanes = D.classes.filter(name => on.has(name)), H = lanes.length * ROW + FOOT, scale = devicePixelRatio || 1
  const css = getComputedStyle(document.documentElement), colors = Object.fromEntries(["line", "mute", "fg", "score", "spot", "hit", "miss"].map(name => [name, css.getPropertyValue("--" + name)]))
  const now = [view, lanes, W, scale, half.n, half.end, colors.fg].join()
  if (now !== grounded) {
    ground = make("canvas", { width: W * scale, height: H * scale }); grounded = now
    canvas.style.height = H + "px"; canvas.width = W * scale; canvas.height = H * scale
    $("cursor").style.height = H - FOOT + 3 + "px"; $("cursor").style.transform = `translateX(${toX(position)}px)`
    paintGround(ground.getContext("2d"), lanes, H, scale, colors)
  }
  const c = canvas.getContext("2d"), foot = lanes.map((_, i) => (i + 1) * ROW - 3), at = new Map(lanes.map((name, i) => [name, foot[i]]))
  c.setTransform(1, 0, 0, 1, 0, 0); c.clearRect(0, 0, canvas.width, canvas.height); c.drawImage(ground, 0, 0); c.scale(scale, scale)
  c.save(); c.beginPath(); c.rect(left(), 0, W - left() - 4, H); c.clip()
  for (const t of items.values()) if (t.what !== "spot" && t.half === half.n && at.has(t.label) && t.state !== "rejected") {        // a stem per true action
    const x = toX(t.ms / 1000), y = at.get(t.label)
    c.fillStyle = !judged || t.what === "added" || t.hit && t.hit.state !== "rejected" ? colors.hit : colors.miss; c.fillRect(x - .75, y - ROW + 5, 1.5, ROW - 5)
    if (t === chosen) c.fillRect(x - 4, y - ROW + 5, 8, 6)
  }
  for (const e of rows) if (e.what === "spot" && at.has(real(e).label)) {
    c.fillStyle = e.kind === "hit" ? colors.hit : colors.spot; c.globalAlpha = e.state === "rejected" ? .25 : 1
    c.beginPath(); c.arc(toX(real(e).ms / 1000), at.get(real(e).label) - (ROW - 9) * e.score, e === chosen ? 5 : 3.2, 0, 7); c.fill()
  }
  c.restore()
  canvas.setAttribute("aria-label", `scores of ${lanes.length} classes from ${clock(view[0])} to ${clock(view[1])}; the list has the ${rows.length} actions`)
}
function paintGround(c, lanes, H, scale, colors) {
  c.scale(scale, scale); c.font = `${W < 600 ? 11 : 13}px system-ui, "DejaVu Sans", sans-serif`; c.textBaseline = "middle"
  const ticks = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600].find(t => (view[1] - view[0]) / t <= W / 90) || 900
  c.strokeStyle = colors.line; c.fillStyle = colors.mute; c.textAlign = "center"
  for (let s = Math.ceil(view[0] / ticks) * ticks; s <= view[1]; s += ticks) {
    c.beginPath(); c.moveTo(toX(s), 0); c.lineTo(toX(s), H - FOOT); c.stroke(); c.fillText(clock(s), Math.min(toX(s), W - 1 - c.measureText(clock(s)).width / 2), H - 9)
  }
  const K = D.classes.length, n = half.scores.length / K, foot = i => (i + 1) * ROW - 3
  lanes.forEach((name, i) => {
    c.textAlign = "right"; c.fillStyle = colors.fg
    while (name.length > 1 && c.measureText(name).width > left() - 10) name = name.slice(0, -2).trimEnd() + "…"
    c.fillText(name, left() - 6, foot(i) - ROW / 2 + 3)
    c.beginPath(); c.moveTo(left(), foot(i) + .5); c.lineTo(W - 8, foot(i) + .5); c.stroke()
  })
  c.beginPath(); c.rect(left(), 0, W - left() - 4, H); c.clip()
  c.fillStyle = colors.score
  lanes.forEach((name, i) => {
    const k = D.classes.indexOf(name), at = s => Math.floor((s - half.start) / half.token), top = t => half.scores[Math.min(Math.max(t, 0), n - 1) * K + k]
    c.beginPath(); c.moveTo(left(), foot(i))
    if ((W - left()) / (view[1] - view[0]) * half.token > 3)  // a point per token, at its time
      for (let t = at(view[0]) - 1; t <= at(view[1]) + 1; t++) c.lineTo(toX(half.start + half.token * (t + 0.25)), foot(i) - (ROW - 9) * top(t) / 255)
    else for (let x = left(); x <= W - 8; x++) {              // the highest score of each pixel
      let most = 0
      for (let t = at(toS(x)); t <= Math.max(at(toS(x)), at(toS(x + 1)) - 1); t++) most = Math.max(most, top(t))
      c.lineTo(x, foot(i) - (ROW - 9) * most / 255)
    }
    c.lineTo(W - 8, foot(i)); c.fill()
  })
}
let drag = null
canvas.onpointerdown = e => { drag = { x: e.offsetX, view: view.slice(), far: false }; canvas.setPointerCapture(e.pointerId) }
canvas.onpointermove = e => {
  if (!drag) return
  drag.far ||= Math.abs(e.offsetX - drag.x) > 4
  const s = (drag.x - e.offsetX) * (view[1] - view[0]) / (W - left() - 8)
  if (drag.far) setView(drag.view[0] + s, drag.view[1] + s)
}
canvas.onpointerup = e => {
  if (drag && !drag.far) {                // on a dot: that action; elsewhere: that time
    const name = D.classes.filter(name => on.has(name))[Math.floor(e.offsetY / ROW)]
    const x = r => Math.abs(toX(real(r).ms / 1000) - e.offsetX), near = rows.filter(r => real(r).label === name && x(r) < 7).sort((a, b) => x(a) - x(b))
    if (near.length) choose(near[0]); else seek(toS(e.offsetX))
  }
  drag = null
}
canvas.onpointercancel = () => drag = null
canvas.addEventListener("wheel", e => { e.preventDefault(); if (e.deltaX) { const s = e.deltaX * (view[1] - view[0]) / 800; setView(view[0] + s, view[1] + s) }
  if (e.deltaY) zoom(e.deltaY > 0 ? 1.25 : 0.8, toS(e.offsetX)) }, { passive: false })
$("in").onclick = () => zoom(0.5); $("out").onclick = () => zoom(2); $("all").onclick = () => setView(...bounds)
new ResizeObserver(() => { W = canvas.clientWidth; draw() }).observe(canvas); matchMedia("(prefers-color-scheme: dark)").onchange = draw

// ---- set-up
$("title").textContent = document.title = D.title; $("when").textContent = D.match === D.title ? "" : D.match; $("about").textContent = D.about
for (const e of document.querySelectorAll(".truth")) e.hidden = !judged
for (const e of document.querySelectorAll(".spots")) e.hidden = !D.spotted
$("labels").title = D.truth ? "the labels, corrected, the alarms that you accepted, and what you added" : "what you accepted or added, and all actions shown that you did not reject"
for (const h of D.halves) $("halves").append(make("button", { textContent: { 1: "first half", 2: "second half" }[h.n], onclick: () => setHalf(h) }))
$("halves").hidden = D.halves.length === 1 && half.n === 1      // one file may be anything
for (const select of [$("class"), kinds]) select.append(...D.classes.map(name => make("option", { value: name, textContent: name })))
D.halves.forEach((h, i) => $("halves").children[i].dataset.n = h.n)
$("chips").append(...D.classes.map(name => make("button", { className: "chip", name, onclick: () => { on.delete(name) || on.add(name); update() } }, name, make("span", { className: "mute" }))),
  make("button", { textContent: "all", onclick: () => { D.classes.forEach(name => on.add(name)); update() } }), make("button", { textContent: "none", onclick: () => { on.clear(); update() } }))
see([least, "2.5", D.classes])
$("least").oninput = () => { least = +$("least").value; update() }
$("tolerance").oninput = update; $("play").onclick = play; $("error").onclick = nextError; $("unsure").onclick = nextUnsure
$("add").onclick = add; $("undo").onclick = () => undo(); $("redo").onclick = () => undo(undone, done, 2)
$("order").onclick = () => { $("order").setAttribute("aria-pressed", $("order").getAttribute("aria-pressed") === "false"); update() }
$("skip").onclick = e => { e.preventDefault(); ((chosen || rows[0] || {}).row || $("class")).querySelector(".go").focus() }
for (const b of document.querySelectorAll("[data-save]")) b.onclick = () => save(b.dataset.save)
function take(file) {
  if (!file) return
  if (/^video\/|\.(mkv|mp4|mov|avi|ts|m4v|webm|mpe?g)$/i.test(file.type + "/" + file.name)) show(file)
  else if (!/\.json$/i.test(file.name)) note(`${file.name}: neither a video nor a Labels-v2.json`)
  else file.text().then(text => load(text, file.name), () => note(`${file.name}: cannot be read`))
}
for (const id of ["file", "load"]) $(id).onchange = () => { take($(id).files[0]); $(id).value = "" }
document.ondragover = e => e.preventDefault(); document.ondrop = e => { e.preventDefault(); take(e.dataTransfer.files[0]) }
document.onkeyup = e => { if (e.key === " " && e.target.className === "go") e.preventDefault() }
document.onkeydown = e => {
  if (e.target.tagName === "SELECT" && (e.key === "Enter" || e.key === "Escape")) { e.preventDefault(); return (chosen ? chosen.row.firstChild : $("add")).focus() }
  if (e.altKey || /INPUT|SELECT|VIDEO/.test(e.target.tagName) && e.target.type !== "range") return
  if (e.key === " " && e.target.tagName === "BUTTON" && e.target.className !== "go") return          // there it presses the button
  if (e.target.type === "range" && e.key.startsWith("Arrow")) return
  const by = way => () => seek(position + way * (e.shiftKey ? 1 / half.fps : 2))
  const keys = e.ctrlKey || e.metaKey ? { z: () => undo(), Z: () => undo(undone, done, 2), y: () => undo(undone, done, 2) } : { " ": play, ArrowLeft: by(-1), ArrowRight: by(1),
    j: () => step(1), k: () => step(-1), n: nextError, u: nextUnsure, i: add, z: () => undo(), Z: () => undo(undone, done, 2), c: () => (chosen ? kinds : $("class")).focus(),
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => setView(...bounds), Delete: () => edit("d"),
    1: () => setHalf(D.halves.find(h => h.n === 1) || half), 2: () => setHalf(D.halves.find(h => h.n === 2) || half) }
  for (const key of ["a", "r", "d", "[", "]", ",", ".", "m"]) if (!e.ctrlKey && !e.metaKey) keys[key] = () => edit(key)
  if (Object.hasOwn(keys, e.key)) { e.preventDefault(); keys[e.key]() }
}
restore()
setHalf(half)
