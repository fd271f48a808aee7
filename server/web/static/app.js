/* What the pages do beside htmx: live events, charts, questions before a stop, words that play. */
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const fire = (name) => htmx.trigger(document.body, name);

/* Live events. The stream is closed while nobody looks at the page. */
const GATHER_MS = 2000;
let stream = null, later = 0, gathered = 0;
const lost = document.getElementById("lost"), LOST = lost.textContent;
function tell(text) {
  lost.textContent = text;
  lost.hidden = !text;
}
function listen() {
  const url = document.body.dataset.events;
  if (!url || document.hidden || stream) return;
  stream = new EventSource(url);
  stream.addEventListener("open", () => tell(""));
  stream.addEventListener("error", () => {
    tell(LOST);
    if (stream.readyState !== EventSource.CLOSED) return;
    // After an answer that is no stream, such as 503, a browser does not try again. Fetching a part
    // of the page shows why, and leads to the page to sign in when the session has ended.
    close();
    later = setTimeout(() => { listen(); fire("state"); }, 5000);
  });
  stream.addEventListener("state", () => fire("state"));
  stream.addEventListener("progress", () => {
    // Many steps of many jobs are one change of the page, which is never left out.
    gathered ||= setTimeout(() => { gathered = 0; fire("progress"); }, GATHER_MS);
  });
  // What changed between the page and the stream is fetched now.
  stream.addEventListener("begin", (event) => fire(event.data === document.body.dataset.seen ? "progress" : "state"));
  stream.addEventListener("over", () => { close(); fire("state"); });
}
function close() {
  clearTimeout(later);
  if (stream) stream.close();
  stream = null;
}
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return close();
  listen();
  fire("state");
});
addEventListener("pagehide", close);

/* Charts: an element with data-charts names where its specifications come from. */
const colours = () => ({
  background: "transparent",
  view: { stroke: null },
  axis: { gridColor: dark.matches ? "#30363d" : "#e4e8ec", labelFontSize: 13, titleFontSize: 13, labelLimit: 160 },
  legend: { labelFontSize: 13, titleFontSize: 13 },
});
const views = new Map();

async function draw(place, spec) {
  const drawn = views.get(place);
  const values = spec.data && spec.data.values;
  if (drawn && values && drawn.theme === dark.matches) {
    // A running training only gains points: the chart stays and its data change.
    await drawn.view.data("source_0", values).resize().runAsync();
    return;
  }
  if (drawn) drawn.view.finalize();
  const options = {
    actions: false, ast: true, renderer: "svg", defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
    theme: dark.matches ? "dark" : undefined, config: colours(),
  };
  const made = await window.vegaEmbed(place, spec, options);
  // vega-embed names every chart "Vega visualization".
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", place.parentElement.querySelector("figcaption").textContent);
  views.set(place, { view: made.view, theme: dark.matches });
}

async function drawAll(root) {
  const groups = [...root.querySelectorAll("[data-charts]")];
  if (root.matches && root.matches("[data-charts]")) groups.push(root);
  for (const group of groups) {
    const answer = await fetch(group.dataset.charts);
    if (!answer.ok) continue;
    const specs = await answer.json();
    const figures = [...group.querySelectorAll("figure[data-name]")];
    // A chart takes the width that its place has: all places are shown before the first is drawn.
    for (const figure of figures) figure.hidden = !specs[figure.dataset.name];
    for (const figure of figures) {
      const spec = specs[figure.dataset.name];
      if (spec) await draw(figure.querySelector(".chart"), spec);
    }
    group.dataset.drawn = "yes";
  }
}
dark.addEventListener("change", () => drawAll(document));

let again = 0;
document.body.addEventListener("progress", () => {
  if (Date.now() - again < 3000) return;
  again = Date.now();
  for (const group of document.querySelectorAll("[data-charts][data-live]")) drawAll(group.parentElement);
});

/* A part of the page was replaced. */
document.body.addEventListener("htmx:afterSwap", (event) => {
  const part = event.detail.elt;
  for (const box of part.querySelectorAll("input[name=job]")) box.checked = chosen.has(box.value);
  count();
  if (window.vegaEmbed) drawAll(part);
});
document.body.addEventListener("htmx:beforeSwap", (event) => {
  // The session has ended: the answer is the page to sign in.
  if (new URL(event.detail.xhr.responseURL).pathname === "/login") {
    event.detail.shouldSwap = false;
    return location.reload();
  }
  const log = event.detail.target;
  if (log.classList.contains("log")) bottom = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
});
document.body.addEventListener("htmx:afterSettle", (event) => {
  const log = event.detail.elt;
  if (log.classList.contains("log") && bottom) log.scrollTop = log.scrollHeight;
});
let bottom = true;

/* What the server says about a refused request: the error of the API, or of a page. */
function reason(request) {
  try {
    return JSON.parse(request.responseText).error.message;
  } catch {
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    return page.querySelector("main [role=alert]")?.textContent || LOST;
  }
}
document.body.addEventListener("htmx:sendError", () => tell(LOST));
document.body.addEventListener("htmx:responseError", (event) => {
  tell(reason(event.detail.xhr));
  lost.scrollIntoView({ block: "nearest" });
});
document.body.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful && (!stream || stream.readyState === EventSource.OPEN)) tell("");
});

/* Jobs that were chosen to be compared stay chosen when the table is replaced. */
const chosen = new Set();
function count() {
  const button = document.getElementById("compare");
  if (!button) return;
  button.disabled = chosen.size < 2;
  button.textContent = chosen.size < 2 ? "Compare (choose two or more)" : `Compare ${chosen.size} jobs`;
}
document.addEventListener("change", (event) => {
  const box = event.target;
  if (!box.matches("input[name=job][type=checkbox]")) return;
  if (box.checked) chosen.add(box.value); else chosen.delete(box.value);
  count();
});
document.addEventListener("formdata", (event) => {
  if (!event.target.querySelector("#compare")) return;
  // Also those that the filter hides now.
  event.formData.delete("job");
  for (const job of chosen) event.formData.append("job", job);
});

/* A question before what cannot be undone. A second click changes nothing a second time. */
document.addEventListener("submit", (event) => {
  const form = event.target, question = form.dataset.confirm;
  if (form.method !== "post" || form.hasAttribute("hx-post")) return;
  if (form.dataset.sent || (question && !confirm(question))) return event.preventDefault();
  form.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

/* Only one sound at a time. */
document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);

for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
for (const box of document.querySelectorAll("input[name=job][type=checkbox]:checked")) chosen.add(box.value);
count();
listen();
if (window.vegaEmbed) drawAll(document);

/* Try it: drop, record, and words that light up as they play. */
const form = document.getElementById("try");
if (form) {
  const file = document.getElementById("file"), played = document.getElementById("played");
  const drop = document.getElementById("drop"), record = document.getElementById("record");
  const fault = document.getElementById("record-fault");
  const take = (blob, name) => {
    const files = new DataTransfer();
    files.items.add(new File([blob], name, { type: blob.type }));
    file.files = files.files;
    file.dispatchEvent(new Event("change"));
  };
  file.addEventListener("change", () => {
    if (played.src) URL.revokeObjectURL(played.src);
    played.hidden = !file.files.length;
    if (file.files.length) played.src = URL.createObjectURL(file.files[0]);
    document.getElementById("heard").replaceChildren();
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
    });
  }
  played.addEventListener("timeupdate", () => {
    for (const word of document.querySelectorAll("#heard .word")) {
      word.classList.toggle("now", played.currentTime >= word.dataset.start && played.currentTime < word.dataset.end);
    }
  });
  document.getElementById("heard").addEventListener("click", (event) => {
    if (!event.target.matches(".word")) return;
    played.currentTime = event.target.dataset.start;
    played.play();
  });
  /* A recording of the browser states no length until its end was looked for. */
  played.addEventListener("loadedmetadata", () => {
    if (played.duration !== Infinity) return;
    played.addEventListener("durationchange", () => { played.currentTime = 0; }, { once: true });
    played.currentTime = Number.MAX_SAFE_INTEGER;
  });

  /* The microphone. Browsers give it to pages of https and of this machine only. */
  const ENDINGS = { "audio/mp4": "m4a", "audio/ogg": "ogg", "video/mp4": "m4a" };
  const REFUSED = {
    NotAllowedError: "The browser does not allow it here. Allow the microphone in the settings of this page, beside its address.",
    NotFoundError: "No microphone was found. Connect one, or choose a file.",
    NotReadableError: "Another program uses it, or the system does not allow it to the browser.",
  };
  const hear = document.getElementById("hear"), may = !hear.disabled;
  const refuse = (text) => { fault.textContent = text; fault.hidden = !text; };
  let recorder = null, clock = null;
  if (navigator.mediaDevices?.getUserMedia && window.MediaRecorder) record.hidden = false;
  else document.getElementById("record-none").hidden = false;
  const ended = () => {
    clearInterval(clock);
    recorder = null;
    record.textContent = "Record";
    hear.disabled = !may;
  };
  const keep = (sound) => {
    const parts = [], began = Date.now(), made = new MediaRecorder(sound);
    made.addEventListener("dataavailable", (event) => parts.push(event.data));
    made.addEventListener("stop", () => {
      for (const track of sound.getTracks()) track.stop();
      const type = made.mimeType.split(";")[0];
      const blob = new Blob(parts, { type: made.mimeType });
      ended();
      if (blob.size) take(blob, `recording.${ENDINGS[type] || "webm"}`);
      else refuse("The microphone gave no sound.");
    });
    made.start();
    const tick = () => { record.textContent = `Stop recording (${Math.round((Date.now() - began) / 1000)} s)`; };
    tick();
    clock = setInterval(tick, 500);
    return made;
  };
  record.addEventListener("click", async () => {
    refuse("");
    if (recorder) return recorder.stop();
    record.disabled = hear.disabled = true;
    try {
      recorder = keep(await navigator.mediaDevices.getUserMedia({ audio: true }));
    } catch (error) {
      ended();
      refuse(`The microphone cannot be used. ${REFUSED[error.name] || error.message}`);
    }
    record.disabled = false;
  });
}
