// Shows the pairs of STUDY one after the other, records choices, and offers them as JSON. A skipped pair is replaced by
// the next one, so that the number of valid answers stays. Choices survive a reload where the browser lets them.
(function () {
  "use strict";
  var study = JSON.parse(document.getElementById("study").textContent);
  var get = function (id) { return document.getElementById(id); };
  var key = "gantransfer-study-" + study.id;
  var state = { subject: "", started: null, finished: null, answers: [] };
  var shownAt = 0;
  var ready = false;

  function stored(write) {
    try {
      if (write) { localStorage.setItem(key, JSON.stringify(state)); return null; }
      return JSON.parse(localStorage.getItem(key));
    } catch (error) { return null; }
  }

  function valid() {
    return state.answers.filter(function (answer) { return answer.choice !== "skip"; }).length;
  }

  function over() { return valid() >= study.n || state.answers.length >= study.pairs.length; }

  function result() {
    return {
      format: "gantransfer-study", version: 1, study: study.id, a: study.a, b: study.b, n: study.n,
      subject: state.subject, started: state.started, finished: state.finished, complete: valid() >= study.n,
      answers: state.answers
    };
  }

  function show() {
    get("intro").hidden = true;
    var ended = over();
    get("asking").hidden = ended;
    get("done").hidden = !ended;
    get("count").textContent = valid() + " of " + study.n;
    get("bar").style.width = 100 * valid() / study.n + "%";
    if (ended) { finish(); return; }
    var pair = study.pairs[state.answers.length];
    get("question").textContent = study.question.split("<class>").join(pair.class);
    get("left").querySelector("img").src = pair.left;
    get("right").querySelector("img").src = pair.right;
    get("undo").disabled = state.answers.length === 0;
    shownAt = performance.now();
    ready = true;
  }

  function answer(side) {
    if (!ready || over()) return;
    ready = false;
    var pair = study.pairs[state.answers.length];
    var other = pair.first === "A" ? "B" : "A";
    state.answers.push({
      pair: state.answers.length, class: pair.class, left: pair.first,
      choice: side === "skip" ? "skip" : side === "left" ? pair.first : other,
      milliseconds: Math.round(performance.now() - shownAt)
    });
    stored(true);
    show();
  }

  function undo() {
    if (!state.started || state.answers.length === 0) return;
    state.answers.pop();
    state.finished = null;
    stored(true);
    show();
  }

  function finish() {
    ready = false;
    if (!state.finished) { state.finished = new Date().toISOString(); stored(true); }
    var text = JSON.stringify(result(), null, 1);
    var name = "study-" + study.id + "-" + (state.subject || "subject").replace(/[^\w-]+/g, "_") + ".json";
    get("short").hidden = valid() >= study.n;
    get("json").value = text;
    get("save").download = name;
    get("save").href = "data:application/json;charset=utf-8," + encodeURIComponent(text);
  }

  function start() {
    if (state.started) return;
    state.subject = get("subject").value.trim();
    state.started = new Date().toISOString();
    stored(true);
    show();
  }

  get("start").addEventListener("click", start);
  ["left", "right", "skip"].forEach(function (side) {
    get(side).addEventListener("click", function () { answer(side); });
  });
  get("undo").addEventListener("click", undo);
  get("back").addEventListener("click", undo);
  get("again").addEventListener("click", function () {
    if (!window.confirm("Discard these answers and start again?")) return;
    state = { subject: "", started: null, finished: null, answers: [] };
    stored(true);
    get("done").hidden = true;
    get("intro").hidden = false;
  });
  document.addEventListener("keydown", function (event) {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!state.started) {
      if (event.key === "Enter") { event.preventDefault(); start(); }
      return;
    }
    if (!get("done").hidden) return;
    var sides = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "skip", s: "skip", S: "skip" };
    if (event.key in sides) { event.preventDefault(); answer(sides[event.key]); }
    if (event.key === "Backspace") { event.preventDefault(); undo(); }
  });

  var before = stored(false);
  if (before && before.started) { state = before; show(); }
})();
