// The strip of full, partial and null steps in "Flexiffusion Load Schedule", and reports under the nodes that make one.
// The server reads the schedule (POST /flexiffusion/strip), so there is one parser and one set of error messages.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const HEIGHT = 64;
const MARGIN = 15;
const LINE = 13;
const FONT = "11px sans-serif";
const REPORT_LINES = 6;
const REPORTING = ["FlexiffusionSampler", "FlexiffusionCompare"];
const LOADERS = ["ckpt_name", "unet_name", "model_name"]; // widgets of nodes that load a model file

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

// A text as the lines it needs, each line of its own wrapped; at most `count`, the last one then has all of the rest.
function wrapped(ctx, text, width, count) {
  const found = [];
  for (const line of text.split("\n")) {
    const rest = line.split(/\s+/);
    while (rest.length) {
      let shown = rest.shift();
      while (rest.length && ctx.measureText(`${shown} ${rest[0]}`).width <= width) shown += ` ${rest.shift()}`;
      found.push(shown);
    }
  }
  return found.length > count ? [...found.slice(0, count - 1), found.slice(count - 1).join(" ")] : found;
}

function lines(ctx, text, x, y, width, count) {
  wrapped(ctx, text, width, count).forEach((line, index) => words(ctx, line, x, y + index * LINE, width));
}

// In Nodes 2.0 (Vue) a widget draws on a canvas of its own, which nothing but this asks to be drawn again.
function redraw(node, widget) {
  widget.triggerDraw?.();
  node.setDirtyCanvas(true, true);
}

// One bar a step. Kinds differ in height as well as in colour; a null step is a dash in the theme's own.
function drawStrip(ctx, { steps, colours, heights }, x, y, width, height) {
  const slot = width / steps.length;
  const bar = Math.max(1, slot * 0.75);
  steps.forEach(([kind], index) => {
    const left = x + index * slot + (slot - bar) / 2;
    const tall = heights[kind] * height;
    ctx.fillStyle = kind === "null" ? ink() : colours[kind];
    ctx.fillRect(left, y + height - tall, bar, tall);
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
      // the frames of Nodes 2.0 leave their own margin
      const x = this.triggerDraw ? 0 : MARGIN;
      const inner = width - 2 * x;
      ctx.save();
      ctx.fillStyle = paper();
      ctx.beginPath();
      ctx.roundRect(x, y + 2, inner, HEIGHT - 4, 6);
      ctx.fill();
      ctx.font = FONT;
      ctx.textAlign = "left";
      ctx.textBaseline = "alphabetic";
      if (this.state.steps?.length) drawStrip(ctx, this.state, x + 8, y + 8, inner - 16, 26);
      ctx.fillStyle = this.state.error ? "#ff6b6b" : ink();
      if (this.state.error) lines(ctx, this.state.words, x + 8, y + 17, inner - 16, 4);
      else words(ctx, this.state.words, x + 8, y + HEIGHT - 12, inner - 16);
      ctx.restore();
    },
  };
}

async function refresh(node, strip) {
  const value = (name) => node.widgets?.find((widget) => widget.name === name)?.value ?? "";
  const asked = JSON.stringify({ preset: value("preset"), json: value("json"), speedup: Number(value("speedup")) || 2 });
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
      : { steps: answer.steps, colours: answer.colours, heights: answer.heights, words: `${answer.counts}  ·  ${answer.model}` };
    strip.tooltip = answer.error ?? `${answer.description}\nMade for: ${answer.made_for}`;
  } catch (error) {
    strip.state = { words: String(error), error: true };
  }
  redraw(node, strip);
}

// The widget with the file of the model that a schedule goes to: from the node that takes both, up its model links to the
// loader.
function loaderOf(node) {
  for (const link of node.outputs?.[0]?.links ?? []) {
    let upper = node.graph?.getNodeById(node.graph.links[link]?.target_id);
    for (let hops = 0; upper && hops < 50; hops += 1) {
      const loaded = upper.widgets?.find((widget) => LOADERS.includes(widget.name));
      if (loaded) return loaded;
      const place = upper.inputs?.findIndex((input) => input.type === "MODEL") ?? -1;
      upper = place < 0 ? null : upper.getInputNode(place);
    }
  }
  return null;
}

function complain(error) {
  console.warn("Flexiffusion:", error);
}

// Offers the presets for the connected model's family only; all of them where none is connected or it is not known.
async function filterPresets(node) {
  const preset = node.widgets?.find((widget) => widget.name === "preset");
  const loader = loaderOf(node);
  if (loader && loader !== node.flexiffusionLoader) {
    node.flexiffusionLoader = loader;
    watch(loader, () => filterPresets(node).catch(complain));
  }
  const model = String(loader?.value ?? "");
  if (!preset || model === node.flexiffusionModel) return;
  node.flexiffusionModel = model;
  const response = await api.fetchApi("/flexiffusion/presets", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model }),
  });
  if (!response.ok || model !== String(loaderOf(node)?.value ?? "")) return;
  preset.options.values = (await response.json()).presets;
}

// An example workflow says which family it is for: where this machine has not the file that it names, another of the family.
async function chooseCheckpoint(graph) {
  const family = graph?.extra?.flexiffusion?.family;
  const missing = (graph?._nodes ?? []).flatMap((node) =>
    (node.widgets ?? [])
      .filter((one) => one.name === "ckpt_name" && Array.isArray(one.options?.values) && !one.options.values.includes(one.value))
      .map((widget) => [node, widget]),
  );
  if (!family || !missing.length) return;
  const response = await api.fetchApi("/flexiffusion/checkpoint", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ family }),
  });
  const { checkpoint } = response.ok ? await response.json() : {};
  if (!checkpoint) return;
  for (const [node, widget] of missing) {
    widget.value = checkpoint;
    widget.callback?.(checkpoint);
    redraw(node, widget);
  }
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
  node.widgets.filter((widget) => ["preset", "json", "speedup"].includes(widget.name)).forEach((widget) => watch(widget, changed));
  const configure = node.onConfigure;
  node.onConfigure = function (...args) {
    const result = configure?.apply(this, args);
    changed();
    return result;
  };
  const filter = () => filterPresets(node).catch(complain);
  const connected = node.onConnectionsChange;
  node.onConnectionsChange = function (...args) {
    const result = connected?.apply(this, args);
    filter();
    return result;
  };
  // another model may be linked farther up without a word to this node: ask when the mouse comes to it
  const entered = node.onMouseEnter;
  node.onMouseEnter = function (...args) {
    filter();
    return entered?.apply(this, args);
  };
  changed();
}

// Measures texts where nothing is being drawn.
let ruler = null;
function rows(text, width) {
  ruler ??= document.createElement("canvas").getContext("2d");
  ruler.font = FONT;
  return wrapped(ruler, text, width, REPORT_LINES).length;
}

// The last run's report under the node, all of it in the tooltip; not saved with the workflow.
function showReport(node, text) {
  let shown = node.widgets?.find((widget) => widget.name === "last report");
  if (!shown) {
    shown = node.addCustomWidget({
      name: "last report",
      type: "flexiffusion_report",
      value: "",
      serialize: false,
      options: { serialize: false },
      computeSize(width) {
        return [width ?? 240, 8 + LINE * rows(this.value, (width ?? node.size[0]) - 2 * MARGIN)];
      },
      draw(ctx, _node, width, y) {
        ctx.save();
        ctx.font = FONT;
        ctx.textAlign = "left";
        ctx.textBaseline = "alphabetic";
        ctx.fillStyle = ink();
        lines(ctx, this.value, MARGIN, y + 14, width - 2 * MARGIN, REPORT_LINES);
        ctx.restore();
      },
    });
  }
  shown.value = text;
  shown.tooltip = text;
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  redraw(node, shown);
}

// A node by the id that the server knows it by: "7", or "12:7" for one in a subgraph.
function nodeById(id) {
  let graph = app.rootGraph ?? app.graph;
  let found = null;
  for (const part of String(id).split(":")) {
    found = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
    graph = found?.subgraph;
  }
  return found;
}

app.registerExtension({
  name: "Flexiffusion",
  setup() {
    // Apply Schedule and Auto have long been executed when the sampling ends that they report of
    api.addEventListener("flexiffusion.report", ({ detail }) => {
      const node = nodeById(detail.node);
      if (node) showReport(node, detail.text);
    });
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!REPORTING.includes(nodeData.name)) return;
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output, ...more) {
      executed?.call(this, output, ...more);
      if (output?.text?.length) showReport(this, output.text.join("\n"));
    };
  },
  async afterConfigureGraph() {
    await chooseCheckpoint(app.graph).catch(complain);
  },
  nodeCreated(node) {
    if (node.comfyClass === "FlexiffusionLoadSchedule") addStrip(node);
  },
});
