"use strict";
(() => {
  const R = JSON.parse(document.getElementById("payload").textContent);
  const $ = (id) => document.getElementById(id);
  const CONFIG = {showSendToCloud: false, displaylogo: false, responsive: true, doubleClick: false,
    modeBarButtons: [["toImage"]]};
  const STILL = {mode: "immediate", frame: {duration: 0, redraw: false}, transition: {duration: 0}};
  const slider = $("slider"), root = document.documentElement, last = R.steps.length - 1;
  const state = {index: last, pair: 0, scale: "log", playing: false};
  const ID = Object.fromEntries(R.panels.map(({id, kind}) => [kind, id]));  // of the kinds that are there once
  const spectrumRange = ID.spectrum && [...R.figures[ID.spectrum].layout.yaxis.range];
  const cursors = [];  // {gd, line, dots} of every panel over steps

  // --- the data blocks: little-endian, as numpy wrote them
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const coordinates = R.coordinates && new Int16Array(bytes(R.coordinates.block));  // [component, step, token]
  const spectrum = R.spectrum && new Float32Array(bytes(R.spectrum.block));  // [step, frequency]
  const maps = Object.fromEntries(Object.entries(R.maps).map(([id, map]) => [id, {...map, values: new Int16Array(bytes(map.block)), shown: null}]));
  const column = (component, index) => {
    const p = R.p, start = (component * R.steps.length + index) * p, out = new Array(p);
    for (let t = 0; t < p; t++) { const q = coordinates[start + t]; out[t] = q === -32768 ? null : q * R.coordinates.scale; }
    return out;
  };
  const along = (values, stride) => Array.from({length: stride ? R.p + 1 : 0}, (_, i) => values[(i * stride) % R.p]);
  const xOf = (step) => (step > 0 ? step : R.axis.zero_at);
  const nearest = (step) => {
    let low = 0, high = last;
    while (high - low > 1) { const mid = (low + high) >> 1; if (R.steps[mid] <= step) low = mid; else high = mid; }
    return step - R.steps[low] <= R.steps[high] - step ? low : high;
  };

  // --- words
  const whole = (n) => n.toLocaleString("en-US");
  const shown = (key, v) => {
    if (v === null || v === undefined) return "–";
    if (key.endsWith("accuracy")) return v.toFixed(3);
    return v !== 0 && (Math.abs(v) < 0.001 || Math.abs(v) >= 1e4) ? v.toExponential(1) : v.toPrecision(3);
  };
  const brief = (n) => (n >= 1e6 ? n / 1e6 + "M" : n >= 1e3 ? n / 1e3 + "k" : String(n));

  // --- theme
  const media = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const theme = () => chosen || (media.matches ? "dark" : "light");
  const paint = () => {
    root.dataset.theme = theme();
    for (const id of drawn) Plotly.relayout(id, {template: R.templates[theme()]});
  };
  const drawn = [];
  root.dataset.theme = theme();
  media.addEventListener("change", paint);
  $("theme").addEventListener("click", () => { chosen = theme() === "dark" ? "light" : "dark"; paint(); });
  let before = null;
  const fit = (width) => {  // 1030 px: the width of the page that the style sheet asks for
    document.body.style.width = width;
    for (const id of drawn) Plotly.Plots.resize(id);
  };
  addEventListener("beforeprint", () => { before = chosen; chosen = "light"; paint(); fit("1030px"); });
  addEventListener("afterprint", () => { chosen = before; paint(); fit(""); });

  // --- the step axis: log or linear, with ticks that know where step 0 sits
  const ticks = (low, high) => {
    const values = [], span = Math.log10(high / Math.max(low, 1e-9));
    if (state.scale === "log" && span > 1) {
      const factors = span > 3 ? [1] : [1, 2, 5];
      for (let d = Math.floor(Math.log10(low)); d <= Math.ceil(Math.log10(high)); d++)
        for (const m of factors) values.push(m * 10 ** d);
    } else {
      const rough = (high - low) / 6, unit = 10 ** Math.floor(Math.log10(rough));
      const gap = Math.max(1, unit * [1, 2, 5, 10].find((m) => m * unit >= rough));
      for (let v = Math.ceil(low / gap) * gap; v <= high; v += gap) values.push(v);
    }
    const kept = values.filter((v) => v >= Math.max(1, R.axis.zero_at) && v >= low && v <= high);
    const zero = R.axis.first === 0 && low <= R.axis.zero_at ? [0] : [];
    return {"xaxis.tickvals": zero.map(xOf).concat(kept), "xaxis.ticktext": zero.map(String).concat(kept.map(state.scale === "log" ? brief : whole))};
  };
  const home = () => {
    const low = xOf(R.axis.first), high = Math.max(R.axis.last, low * 1.01);
    if (state.scale === "log") {
      const pad = 0.015 * Math.log10(high / low);
      return {"xaxis.type": "log", "xaxis.range": [Math.log10(low) - pad, Math.log10(high) + pad], ...ticks(low, high),
        "xaxis.title.text": R.axis.first === 0 ? "step (optimiser updates, log scale; 0 set apart)" : "step (optimiser updates, log scale)"};
    }
    const pad = 0.015 * (high - low);
    return {"xaxis.type": "linear", "xaxis.range": [low - pad, high + pad], ...ticks(low - pad, high + pad), "xaxis.title.text": "step (optimiser updates)"};
  };

  // --- cursors: an SVG over each panel, so that a tick costs no redraw
  const SVG = "http://www.w3.org/2000/svg";
  const addCursor = (gd) => {
    const svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "line");
    svg.setAttribute("class", "cursor"); svg.setAttribute("aria-hidden", "true"); svg.append(line);
    const dots = gd._fullData.map((trace) => {
      if (trace.type !== "scatter" || !trace.mode.includes("lines")) return null;
      const dot = document.createElementNS(SVG, "circle");
      dot.setAttribute("r", 4); dot.setAttribute("fill", trace.line.color); svg.append(dot);
      return dot;
    });
    gd.append(svg);
    const cursor = {gd, svg, line, dots};
    cursors.push(cursor);
    gd.on("plotly_afterplot", () => moveCursor(cursor));
    return cursor;
  };
  const moveCursor = ({gd, svg, line, dots}) => {
    const {xaxis, _size: size} = gd._fullLayout, x = xOf(R.steps[state.index]), px = xaxis._offset + xaxis.d2p(x);
    const inside = px >= xaxis._offset - 1 && px <= xaxis._offset + xaxis._length + 1;
    svg.style.visibility = inside ? "visible" : "hidden";
    if (!inside) return;
    gd.dataset.cursor = R.steps[state.index];
    line.setAttribute("x1", px); line.setAttribute("x2", px);
    line.setAttribute("y1", size.t); line.setAttribute("y2", size.t + size.h);  // through all rows, where there are some
    dots.forEach((dot, i) => {
      if (!dot) return;
      const trace = gd._fullData[i], yaxis = gd._fullLayout["yaxis" + trace.yaxis.slice(1)];  // of its row
      const y = trace.visible === true ? heightAt(trace, xaxis, yaxis, px) : null;
      const py = y === null ? -99 : yaxis._offset + y;
      const fits = Number.isFinite(py) && py >= yaxis._offset - 1 && py <= yaxis._offset + yaxis._length + 1;
      dot.setAttribute("cx", px); dot.setAttribute("cy", fits ? py : -99);
    });
  };
  const heightAt = ({x, y}, xaxis, yaxis, px) => {  // where the drawn line crosses the cursor, in pixels
    const at = (k) => xaxis._offset + xaxis.d2p(x[k]);
    if (!x.length || px < at(0) - 1 || px > at(x.length - 1) + 1) return null;
    let low = 0, high = x.length - 1;
    while (high - low > 1) { const mid = (low + high) >> 1; if (at(mid) <= px) low = mid; else high = mid; }
    const share = at(high) > at(low) ? Math.min(1, (px - at(low)) / (at(high) - at(low))) : 0;
    const from = yaxis.d2p(y[low]), to = yaxis.d2p(y[high]), found = share < 0.001 ? from : share > 0.999 ? to : from + share * (to - from);
    return Number.isFinite(found) ? found : null;
  };

  // --- one tick
  const show = (index) => {
    state.index = Math.min(last, Math.max(0, index));
    const i = state.index, step = R.steps[i];
    slider.value = i;
    $("r-step").textContent = whole(step);
    for (const key of Object.keys(R.readouts)) $("r-" + key).textContent = shown(key, R.readouts[key][i]);
    const accuracy = (R.readouts.test_accuracy || [])[i];
    slider.setAttribute("aria-valuetext", `step ${step} of ${R.steps[last]}` + (accuracy == null ? "" : ` · test accuracy ${accuracy.toFixed(2)}`));
    for (const cursor of cursors) moveCursor(cursor);
    if (drawn.includes(ID.circle)) {
      const {a, b, stride} = R.pairs[state.pair], x = column(a - 1, i), y = column(b - 1, i);
      Plotly.animate(ID.circle, {data: [{x: along(x, stride), y: along(y, stride)}, {x, y}], traces: [0, 1]}, STILL);
    }
    if (fitted()) frame();
    if (drawn.includes(ID.spectrum)) {
      const n = R.spectrum.count;
      Plotly.animate(ID.spectrum, {data: [{y: Array.from(spectrum.subarray(i * n, (i + 1) * n))}], traces: [0]}, STILL);
    }
    if (!state.playing || performance.now() - mapped > 150) showMaps();  // which take longer than a tick
    clearTimeout(settle.timer);
    if (!state.playing) settle.timer = setTimeout(settle, 150);
  };
  let mapped = 0;
  const showMaps = () => {
    for (const id of Object.keys(maps)) if (drawn.includes(id)) showMap(id, R.steps[state.index]);
    mapped = performance.now();
  };
  const showMap = (id, step) => {  // the maps of the nearest step that the file has
    const map = maps[id], size = map.shapes.reduce((sum, [rows, columns]) => sum + rows * columns, 0);
    const near = map.steps.reduce((best, s, k) => (Math.abs(s - step) < Math.abs(map.steps[best] - step) ? k : best), 0);
    if (near === map.shown) return;
    map.shown = near;
    let at = near * size;
    const z = map.shapes.map(([rows, columns]) => Array.from({length: rows}, () => {
      const row = Array.from(map.values.subarray(at, at + columns), (v) => (v === -32768 ? null : v * map.scale));
      at += columns;
      return row;
    }));
    Plotly.restyle(id, {z}, map.traces);
    $("at-" + id).textContent = `step ${whole(map.steps[near])}` + (map.steps[near] === step ? "" : ", the nearest measured");
    $(id).dataset.step = map.steps[near];
  };
  const fitted = () => Boolean($("fit") && $("fit").checked);
  const reachOf = ({a, b, reach}, i) => {  // of all steps, or of this one
    if (!fitted()) return reach;
    const far = [...column(a - 1, i), ...column(b - 1, i)].reduce((most, v) => (Number.isFinite(v) ? Math.max(most, Math.abs(v)) : most), 0);
    return 1.08 * far || reach;
  };
  const frame = () => {  // the ranges of what is drawn at one step
    if (drawn.includes(ID.circle)) {
      const reach = reachOf(R.pairs[state.pair], state.index);
      Plotly.relayout(ID.circle, {"xaxis.range": [-reach, reach], "yaxis.range": [-reach, reach]});
    }
    if (drawn.includes(ID.spectrum)) {
      const n = R.spectrum.count, [low, high] = spectrumRange;
      const top = Math.max(...spectrum.subarray(state.index * n, (state.index + 1) * n));
      Plotly.relayout(ID.spectrum, {"yaxis.range": [low, fitted() && top > 0 ? 1.05 * top : high]});
    }
  };
  const settle = () => {  // what follows only when the slider rests
    showMaps();
    if (!drawn.includes(ID.components)) return;
    const count = $(ID.components).data.length / 2, xs = [], ys = [];
    R.pairs.slice(0, count).forEach(({a, b, stride}) => {
      const x = column(a - 1, state.index), y = column(b - 1, state.index);
      xs.push(along(x, stride), x); ys.push(along(y, stride), y);
    });
    Plotly.restyle(ID.components, {x: xs, y: ys});
    const ranges = {};
    R.pairs.slice(0, count).forEach((pair, k) => {
      const reach = reachOf(pair, state.index), own = k ? k + 1 : "";
      ranges[`xaxis${own}.range`] = ranges[`yaxis${own}.range`] = [-reach, reach];
    });
    Plotly.relayout(ID.components, ranges);
  };
  let wanted = null;
  const request = (index) => {  // at most one tick a frame
    if (wanted === null) requestAnimationFrame(() => { const next = wanted; wanted = null; show(next); });
    wanted = Math.min(last, Math.max(0, index));
  };

  // --- play
  const play = (on) => {
    state.playing = on && last > 0;
    $("play").setAttribute("aria-pressed", String(state.playing));
    $("play").innerHTML = state.playing ? '<span aria-hidden="true">❚❚</span> <span class="word">Pause</span>' : '<span aria-hidden="true">▶</span> <span class="word">Play</span>';
    if (!state.playing) { settle.timer = setTimeout(settle, 50); return; }
    if (state.index >= last) show(0);
    let position = state.index, then = performance.now();
    const frame = (now) => {
      if (!state.playing) return;
      if (Math.floor(position) !== state.index) position = state.index;  // somebody moved the slider
      position += Math.min(200, now - then) / 1000 * Number($("speed").value);
      then = now;
      const next = Math.min(last, Math.floor(position));
      if (next !== state.index) show(next);
      if (next >= last) play(false); else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  };
  $("play").addEventListener("click", () => play(!state.playing));
  slider.addEventListener("input", () => request(Number(slider.value)));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target, own = at.matches("select, button, summary, input[type=checkbox], a");
    if (event.key === " " && !own) { event.preventDefault(); play(!state.playing); }
    const way = {ArrowRight: 1, ArrowLeft: -1, ArrowUp: 1, ArrowDown: -1}[event.key];
    const sideways = event.key === "ArrowRight" || event.key === "ArrowLeft";
    if (way && !at.matches("select") && (at === slider || sideways)) {
      event.preventDefault();
      play(false);
      request((wanted === null ? state.index : wanted) + way * (event.shiftKey ? 10 : 1));
    }
  });

  // --- the marks under the slider
  const along_track = (step) => {
    const i = nearest(step), next = Math.min(last, i + (R.steps[i] < step ? 1 : 0)), low = Math.max(0, next - 1);
    const share = R.steps[next] > R.steps[low] ? (step - R.steps[low]) / (R.steps[next] - R.steps[low]) : 0;
    return 100 * Math.min(1, Math.max(0, (low + share) / Math.max(1, last)));
  };
  for (const band of R.bands) {
    const mark = document.createElement("i"), left = along_track(band.start);
    mark.className = band.word.replace(" ", "-"); mark.title = band.word;
    mark.style.left = left + "%"; mark.style.width = along_track(band.end) - left + "%";
    $("marks").append(mark);
  }
  for (const event of R.events) {
    const mark = document.createElement("button");
    mark.type = "button"; mark.textContent = event.letter; mark.style.left = along_track(event.step) + "%";
    mark.title = `${event.label} (step ${whole(event.step)})`; mark.setAttribute("aria-label", mark.title);
    mark.dataset.step = event.step;
    $("marks").append(mark);
  }
  addEventListener("click", (event) => {
    const target = event.target.closest("[data-step]");
    if (target) { play(false); request(nearest(Number(target.dataset.step))); }
  });

  // --- the circle's tools
  const next = (stride) => R.powers  // the tokens are powers of a primitive root: a step of the exponent is a factor
    ? `x → ${R.powers[stride]} x (mod ${R.p + 1})` : `t → t + ${stride} (mod ${R.p})`;
  const common = (a, b) => (b ? common(b, a % b) : a);  // divisor
  const dress = () => {
    const {a, b, frequency, stride} = R.pairs[state.pair];
    const round = stride > 0 && $("colour").value === "ring";
    const place = Array.from({length: R.p}, (_, t) => (round ? (t * frequency) % R.p : t));
    const numbers = $("numbers").checked;
    Plotly.restyle(ID.circle, {"marker.color": [place], mode: numbers ? "markers+text" : "markers", "marker.size": numbers ? 17 : 10,
      customdata: [place.map((c) => (round ? `${c} of ${R.p} round the circle` : ""))]}, [1]);
    Plotly.relayout(ID.circle, {"xaxis.title.text": `PC ${a}`, "yaxis.title.text": `PC ${b}`});
    frame();
    const shared = common(frequency, R.p);
    $("n-" + ID.circle).textContent = `Axes: principal components ${a} and ${b} of the last step, the same at every step` + (fitted() ? "; their scale is that of the step. " : ". ") +
      (!stride ? "No line joins the elements of a group that is not cyclic" : frequency === 1 && stride === 1 && !R.powers ? "The line joins t → t + 1" : `Strongest frequency here: ${frequency}. The line joins ${next(stride)}` + (shared > 1 ? `, ${shared} times round: so many share each place` : "")) +
      (round && R.powers ? `; colour runs once round that circle.` : round ? (frequency === 1 ? "; colour runs with t." : `; colour runs with ${frequency}·t mod ${R.p}, once round that circle.`) : `; colour is the ${stride ? "residue t" : "number of the element"}.`);
    show(state.index);
  };
  for (const id of ["pair", "colour", "numbers", "fit"]) if ($(id)) $(id).addEventListener("change", () => {
    state.pair = $("pair") ? Number($("pair").value) : 0;
    dress();
  });
  $("scale").addEventListener("change", () => {
    state.scale = $("scale").value;
    for (const {gd} of cursors) Plotly.relayout(gd, home());
  });

  // --- draw: the stage first, the rest when the page is at rest
  const draw = async ({id, kind}) => {
    const gd = $(id), {data, layout} = R.figures[id];
    layout.template = R.templates[theme()];
    await Plotly.newPlot(gd, data, layout, CONFIG);
    drawn.push(id);
    const own = {};
    for (const name of Object.keys(layout)) if (name.startsWith("yaxis") || (kind === "map" && name.startsWith("xaxis"))) {
      own[name + ".range"] = layout[name].range;
      own[name + ".autorange"] = !layout[name].range;
    }
    if (kind === "curve" || kind === "heat") {
      moveCursor(addCursor(gd));
      gd.on("plotly_click", ({points}) => {
        const point = points[0];
        play(false);
        request(kind === "heat" && Array.isArray(point.pointNumber) ? point.pointNumber[1] : nearest(point.x));
      });
      gd.on("plotly_relayout", (change) => {
        if (!("xaxis.range[0]" in change)) return;
        const [low, high] = gd.layout.xaxis.range.map((v) => (state.scale === "log" ? 10 ** v : v));
        Plotly.relayout(gd, ticks(low, high));
      });
      gd.on("plotly_doubleclick", () => { Plotly.relayout(gd, {...home(), ...own}); });
    } else if (kind === "components") {
      gd.on("plotly_click", ({points}) => {
        const pair = Math.floor(points[0].curveNumber / 2);
        if ($("pair")) { $("pair").value = pair; state.pair = pair; dress(); }
      });
    } else {
      if (kind === "circle") dress();
      gd.on("plotly_doubleclick", () => { kind === "circle" ? dress() : Plotly.relayout(gd, {"xaxis.autorange": true, ...own}); if (fitted()) frame(); });
    }
  };
  const rest = () => new Promise((resolve) => setTimeout(resolve, 0));
  (async () => {
    for (const panel of R.panels) { await draw(panel); await rest(); }
    show(state.index);
    root.dataset.ready = "yes";
  })();
  show(last);
})();
