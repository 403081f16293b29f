// Curves over steps, drawn by uPlot: several runs in one picture, one cursor for all pictures, a click for a step.
"use strict";

const charts = (() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const CYCLE = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5"];
  const color = (index) => css(CYCLE[index % CYCLE.length]);

  // At most four digits, short enough for an axis.
  function short(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`;
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
    if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
    if (size !== 0 && size < 1e-3) return value.toExponential(1);
    return String(+value.toPrecision(4));
  }

  // Mean of the last `window` measured values at each point, as the report has it.
  function smooth(values, window = 10) {
    const recent = [];
    return values.map((value) => {
      if (value === null) return null;
      recent.push(value);
      if (recent.length > window) recent.shift();
      return recent.reduce((sum, v) => sum + v, 0) / recent.length;
    });
  }

  // Lines of one picture from the curves of a run: {label, values, low, high, stroke, width, dash, points, fill}.
  function lines(spec, run, curves, isAlone) {
    if (spec.stacked && isAlone) return stack(spec, spec.keys.filter((key) => curves[key]), curves);
    const found = (spec.stacked ? [spec.stacked] : spec.keys).filter((key) => curves[key]);
    return found.flatMap((key, i) => {
      const curve = curves[key], scale = spec.scale || 1;
      const scaled = (values) => values && values.map((v) => (v === null ? null : v / scale));
      const values = scaled(curve.mean), stroke = color(isAlone ? (spec.color || 0) + i : run.index);
      const measured = values.filter((v) => v !== null).length;
      const label = isAlone ? spec.labels?.[key] || key : run.name + (found.length > 1 ? ` ${spec.labels?.[key] || key}` : "");
      const isSparse = measured < values.length / 2 || measured < 3;
      const dash = !isAlone && i ? [5, 3] : undefined;
      const main = { key: label, label, values, stroke, width: 1.75, dash, points: isSparse };
      if (isSparse) return [main];
      const band = spec.band && isAlone ? spec.band.map((k) => curves[k]?.mean) : [curve.low, curve.high];
      if (band[0] && band[1]) Object.assign(main, { low: scaled(band[0]), high: scaled(band[1]) });
      if (!spec.smooth || curve.low || measured < 12) return [main];
      return [{ ...main, key: `${label} raw`, label: null, width: 1, faint: true },
        { ...main, values: smooth(values), low: undefined, width: 2.25 }];
    });
  }

  // Areas on top of each other; the highest is drawn first, so that each covers the ones below it.
  function stack(spec, keys, curves) {
    let below = null;
    const areas = keys.map((key, i) => {
      const values = curves[key].mean.map((v, at) => (v === null ? null : v + (below ? below[at] || 0 : 0)));
      below = values;
      return { key, label: spec.labels?.[key] || key, own: curves[key].mean, values, stroke: color(i), width: 1, fill: true };
    });
    return areas.reverse();
  }

  const faded = (stroke, share) => stroke + Math.round(share * 255).toString(16).padStart(2, "0");

  // All lines over the steps of all runs.
  function joined(parts) {
    const tables = parts.map((part) => [part.steps, ...part.lines.flatMap((l) => (l.low ? [l.low, l.high, l.values] : [l.values]))]);
    return tables.length === 1 ? tables[0] : uPlot.join(tables);
  }

  function series(all) {
    return all.flatMap((line) => {
      const main = {
        label: line.label || "", stroke: line.faint ? faded(line.stroke, 0.3) : line.stroke, width: line.width, dash: line.dash,
        spanGaps: true, points: { show: Boolean(line.points), size: 6, fill: line.stroke },
        fill: line.fill ? faded(line.stroke, 0.55) : undefined,
      };
      const edge = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true };
      return line.low ? [edge, edge, main] : [main];
    });
  }

  function bands(all) {
    let at = 1;
    return all.flatMap((line) => {
      const here = line.low ? [{ series: [at + 1, at], fill: faded(line.stroke, 0.16) }] : [];
      at += line.low ? 3 : 1;
      return here;
    });
  }

  // Dotted lines where something happened.
  function drawMarks(u, marks) {
    const { ctx, bbox } = u;
    ctx.save();
    for (const mark of marks) {
      const x = Math.round(u.valToPos(mark.step, "x", true)) + 0.5;
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = css(mark.isBad ? "--bad" : "--muted");
      ctx.setLineDash([3, 4]);
      ctx.globalAlpha = 0.7;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  const axis = () => ({
    stroke: css("--muted"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false },
    font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif",
  });

  function options(spec, all, size, marks, act) {
    return {
      ...size,
      cursor: { sync: { key: "steps" }, drag: { x: true, y: false, setScale: false }, points: { size: 6 }, y: false },
      legend: { show: false },
      scales: { x: { time: false }, y: spec.range ? { range: spec.range } : { range: (u, low, high) => room(low, high) } },
      axes: [
        { ...axis(), size: 24, gap: 3, values: (u, splits) => splits.map((v) => (Number.isInteger(v) ? short(v) : "")) },
        { ...axis(), size: 48, gap: 4, values: (u, splits) => splits.map(short) },
      ],
      series: [{ label: "step" }, ...series(all)],
      bands: bands(all),
      hooks: {
        draw: [(u) => drawMarks(u, marks())],
        setSelect: [(u) => u.select.width > 6 && zoomed(u, act)],
        setCursor: [act.read],
      },
    };
  }

  // A curve that does not move lies in the middle.
  function room(low, high) {
    if (low === null) return [0, 1];
    const margin = high > low ? 0.06 * (high - low) : Math.max(Math.abs(high), 1) * 0.1;
    return [low - margin, high + margin];
  }

  function zoomed(u, act) {
    const { left, width } = u.select;
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    act.zoom(Math.floor(u.posToVal(left, "x")), Math.ceil(u.posToVal(left + width, "x")));
  }

  // A picture that keeps its place and takes new data. act: pick(step), zoom(first, last) or zoom().
  class Chart {
    constructor(spec, act, marks) {
      Object.assign(this, { spec, act, marks });
      this.title = Object.assign(document.createElement("h3"), { textContent: spec.title });
      this.keys = Object.assign(document.createElement("div"), { className: "keys" });
      this.plot = Object.assign(document.createElement("div"), { className: "plot" });
      this.node = Object.assign(document.createElement("figure"), { className: "card chart" });
      this.node.append(this.title, this.keys, this.plot);
      if (spec.about) this.title.title = spec.about;
      this.plot.addEventListener("mousedown", (event) => { this.pressed = event.clientX; });
      this.plot.addEventListener("click", (event) => Math.abs(event.clientX - this.pressed) < 4 && this.pick());
      this.plot.addEventListener("dblclick", () => act.zoom());
      new ResizeObserver(() => this.u?.setSize(this.size())).observe(this.plot);
    }

    size() {
      return { width: Math.max(200, this.plot.clientWidth), height: this.spec.height || 180 };
    }

    pick() {
      const at = this.u?.cursor.idx;
      if (at !== null && at !== undefined) this.act.pick(this.u.data[0][at]);
    }

    // parts: one a run, {run, steps, curves}. Returns whether there is anything to draw.
    update(parts) {
      const isAlone = parts.length === 1;
      const drawn = parts.map((part) => ({ ...part, lines: lines(this.spec, part.run, part.curves, isAlone) })).filter((p) => p.lines.length);
      this.node.hidden = !drawn.length;
      if (!drawn.length) return false;
      this.lines = drawn.flatMap((part) => part.lines);
      const shape = JSON.stringify(this.lines.map((l) => [l.key, Boolean(l.low), Boolean(l.points), l.stroke]));
      const data = joined(drawn);
      if (this.u && this.shape === shape) this.u.setData(data);
      else this.build(shape, data);
      this.read();
      return true;
    }

    build(shape, data) {
      this.u?.destroy();
      this.shape = shape;
      const act = { ...this.act, read: () => this.read() };
      this.u = new uPlot(options(this.spec, this.lines, this.size(), this.marks, act), data, this.plot);
      this.keys.replaceChildren(...this.lines.filter((l) => l.label).map((line) => {
        const key = document.createElement("span"), dot = document.createElement("i");
        dot.style.background = line.stroke;
        line.shown = document.createElement("b");
        key.append(dot, ` ${line.label} `, line.shown);
        return key;
      }));
      this.shownLines = this.lines;
    }

    // The values at the cursor, or the latest ones.
    read() {
      if (!this.u || !this.shownLines) return;
      let at = 0;
      const cursor = this.u.cursor.idx, cursorIsHere = cursor !== null && cursor !== undefined && this.u.cursor.left >= 0;
      this.lines.forEach((line, i) => {
        at += line.low ? 3 : 1;
        const node = this.shownLines[i]?.shown;
        if (!node) return;
        const values = line.own || this.u.data[at];
        const value = cursorIsHere ? values[cursor] : values.findLast?.((v) => v !== null && v !== undefined);
        node.textContent = short(value);
      });
    }

    redraw() {
      this.shape = null;
    }
  }

  return { Chart, color, css, short, smooth };
})();
