// The strip of full, partial and null steps in "Flexiffusion Load Schedule", and reports under the nodes that make one.
// The server reads the schedule (POST /flexiffusion/strip), so there is one parser and one set of error messages.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const HEIGHT = 64;
const MARGIN = 15;
const REPORTING = ["FlexiffusionSampler", "FlexiffusionCompare"];

function ink() {
  return globalThis.LiteGraph?.WIDGET_SECONDARY_TEXT_COLOR ?? "#999";
}

function paper() {
  return globalThis.LiteGraph?.WIDGET_BGCOLOR ?? "#222";
}

function words(ctx, text, x, y, width) {
  let shown = text;
  while (shown.length > 1 && ctx.measureText(shown).width > width) shown = shown.slice(0, -2) + "…";
  ctx.fillText(shown, x, y);
}

// One bar a step. Kinds differ in height as well as in colour: full is tall, partial half, null a dash.
function drawStrip(ctx, { steps, colours }, x, y, width, height) {
  const slot = width / steps.length;
  const bar = Math.max(1, slot * 0.75);
  steps.forEach(([kind], index) => {
    const left = x + index * slot + (slot - bar) / 2;
    if (kind === "null") {
      ctx.fillStyle = ink();
      ctx.fillRect(left, y + height - 1.5, bar, 1.5);
    } else {
      const tall = kind === "full" ? height : height * 0.45;
      ctx.fillStyle = colours[kind];
      ctx.fillRect(left, y + height - tall, bar, tall);
    }
  });
}

function stripWidget() {
  return {
    name: "strip",
    type: "flexiffusion_strip",
    value: null,
    serialize: false, // neither into the workflow's list of values ...
    options: { serialize: false }, // ... nor into the prompt
    state: { words: "…" },
    computeSize: (width) => [width ?? 240, HEIGHT],
    draw(ctx, node, width, y) {
      const x = MARGIN;
      const inner = width - 2 * MARGIN;
      ctx.save();
      ctx.fillStyle = paper();
      ctx.beginPath();
      ctx.roundRect(x, y + 2, inner, HEIGHT - 4, 6);
      ctx.fill();
      ctx.font = "11px sans-serif";
      ctx.textAlign = "left";
      ctx.textBaseline = "alphabetic";
      if (this.state.steps?.length) drawStrip(ctx, this.state, x + 8, y + 8, inner - 16, 26);
      ctx.fillStyle = this.state.error ? "#ff6b6b" : ink();
      words(ctx, this.state.words, x + 8, y + HEIGHT - 12, inner - 16);
      ctx.restore();
    },
  };
}

async function refresh(node, strip) {
  const value = (name) => node.widgets?.find((widget) => widget.name === name)?.value ?? "";
  const asked = JSON.stringify({ preset: value("preset"), json: value("json") });
  if (asked === strip.asked) return;
  strip.asked = asked;
  try {
    const response = await api.fetchApi("/flexiffusion/strip", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: asked,
    });
    const answer = await response.json();
    if (asked !== strip.asked) return; // the user was faster
    strip.state = answer.error
      ? { words: answer.error, error: true }
      : { steps: answer.steps, colours: answer.colours, words: `${answer.counts}  ·  ${answer.model}` };
    strip.tooltip = answer.error ?? `${answer.description}\nMade for: ${answer.made_for}`;
  } catch (error) {
    strip.state = { words: String(error), error: true };
  }
  node.setDirtyCanvas(true, true);
}

function watch(widget, changed) {
  const before = widget.callback;
  widget.callback = function (...args) {
    const result = before?.apply(this, args);
    changed();
    return result;
  };
  widget.inputEl?.addEventListener?.("input", changed);
}

function addStrip(node) {
  const strip = node.addCustomWidget(stripWidget());
  const changed = () => refresh(node, strip);
  node.widgets.filter((widget) => ["preset", "json"].includes(widget.name)).forEach((widget) => watch(widget, changed));
  const configure = node.onConfigure;
  node.onConfigure = function (...args) {
    const result = configure?.apply(this, args);
    changed();
    return result;
  };
  changed();
}

// The first line of the last run's report under the node, the rest in its tooltip; not saved with the workflow.
function showReport(node, text) {
  let shown = node.widgets?.find((widget) => widget.name === "last report");
  if (!shown) {
    shown = node.addCustomWidget({
      name: "last report",
      type: "flexiffusion_report",
      value: "",
      serialize: false,
      options: { serialize: false },
      computeSize: (width) => [width ?? 240, 20],
      draw(ctx, _node, width, y) {
        ctx.save();
        ctx.font = "11px sans-serif";
        ctx.textAlign = "left";
        ctx.fillStyle = ink();
        words(ctx, this.value, MARGIN, y + 14, width - 2 * MARGIN);
        ctx.restore();
      },
    });
  }
  shown.value = text.split("\n")[0];
  shown.tooltip = text;
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "Flexiffusion",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!REPORTING.includes(nodeData.name)) return;
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output, ...more) {
      executed?.call(this, output, ...more);
      if (output?.text?.length) showReport(this, output.text.join("\n"));
    };
  },
  nodeCreated(node) {
    if (node.comfyClass === "FlexiffusionLoadSchedule") addStrip(node);
  },
});
