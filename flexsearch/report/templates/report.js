"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// The front: which error, which kinds, and what the chosen mark stands for.
const error = document.querySelector("#error");
const showPanel = () => all("[data-panel]").forEach((g) => { g.style.display = g.dataset.panel === error.value ? "" : "none"; });
if (error) { error.addEventListener("change", showPanel); showPanel(); }
all("[data-kind-toggle]").forEach((box) => box.addEventListener("change", () =>
  all(`[data-kind="${box.dataset.kindToggle}"]`).forEach((g) => { g.style.display = box.checked ? "" : "none"; })));
const detail = document.querySelector("#detail");
const choose = (mark) => {
  all(".mark").forEach((other) => other.classList.toggle("chosen", other.dataset.row === mark.dataset.row));
  detail.textContent = document.querySelector(`#row-${mark.dataset.row}`).dataset.detail;
};
all(".mark").forEach((mark) => ["pointerenter", "focus", "click"].forEach((name) =>
  mark.addEventListener(name, () => choose(mark))));

// Teacher on the left of the line, schedule on the right.
all(".cut input").forEach((slider) => slider.addEventListener("input", () =>
  slider.closest(".card").style.setProperty("--cut", `${slider.value}%`)));

// A schedule's text for a host's text box.
all("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
  const area = document.getElementById(button.dataset.copy);
  area.closest("details").open = true;
  area.select();
  try { await navigator.clipboard.writeText(area.value); } catch { document.execCommand("copy"); }
  button.textContent = "Copied";
}));
