// Draws the charts of the page. Text that users wrote is only ever set as text.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const routes = data.routes;
  const HUES = 11; // as many as page.css has; none of them is the red of what is wrong
  const CROSS = "path://M1 3L3 1L7 5L11 1L13 3L9 7L13 11L11 13L7 9L3 13L1 11L5 7Z";
  // Where routes are more than hues, the next ones have another shape.
  const SHAPES = ["circle", "rect", "diamond"];
  const OUTLINES = { circle: "M7 2.5a4.5 4.5 0 1 0 .01 0z", rect: "M3 3h8v8H3z", diamond: "M7 1.2L12.8 7L7 12.8L1.2 7z" };
  const charts = [];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

  const byId = (id) => document.getElementById(id);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const hue = (route) => color("c" + (routes[route].color % HUES));
  const shapeOf = (route) => SHAPES[Math.floor(routes[route].color / HUES) % SHAPES.length];
  const sized = (shape, size) => (shape === "rect" ? size * 0.9 : shape === "diamond" ? size * 1.25 : size);
  const nameOf = (route) => (route < 0 ? "default" : routes[route].name);
  const percent = (share, digits = 0) => (share * 100).toFixed(digits) + " %";
  const dollars = (usd) =>
    "$" + (usd >= 0.095 || usd === 0 ? usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 }) : usd.toFixed(4));
  const cut = (text, most) => (text.length > most ? text.slice(0, most - 1).trimEnd() + "…" : text);
  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

  // A tooltip of lines, each a text or [text, class].
  const tip = (lines) => {
    const box = document.createElement("div");
    box.className = "tip";
    for (const line of lines) {
      const [text, kind] = Array.isArray(line) ? line : [line, ""];
      const row = box.appendChild(document.createElement(kind === "strong" ? "b" : "div"));
      row.className = kind;
      row.dir = "auto";
      row.textContent = text;
    }
    return box;
  };
  const tooltip = (describe) => ({
    confine: true,
    backgroundColor: color("surface"),
    borderColor: color("line"),
    padding: [10, 12],
    textStyle: { color: color("ink"), fontFamily: font() },
    formatter: (at) => tip(describe(at)),
    transitionDuration: 0,
  });
  const font = () => getComputedStyle(document.body).fontFamily;
  const axis = (more) => ({
    axisLine: { lineStyle: { color: color("line") } },
    axisTick: { show: false },
    axisLabel: { color: color("soft"), fontSize: 12, hideOverlap: true },
    splitLine: { lineStyle: { color: color("faint") } },
    nameTextStyle: { color: color("soft"), fontSize: 12 },
    nameLocation: "middle",
    ...more,
  });
  const shareAxis = (name, more) =>
    axis({ name, type: "value", min: 0, max: 1, nameGap: 30, axisLabel: { color: color("soft"), formatter: (v) => Math.round(v * 100) + " %" }, ...more });
  const base = () => ({ animation: !calm.matches, animationDuration: 300, textStyle: { fontFamily: font() } });

  // One chart, drawn again when its size or the colours change.
  const draw = (id, options) => {
    const place = byId(id);
    if (!place) return null;
    const chart = echarts.init(place, null, { renderer: "canvas" });
    const redraw = (replace = true) => chart.setOption({ ...base(), ...options(chart.getWidth(), chart) }, { notMerge: replace });
    redraw();
    let width = chart.getWidth();
    new ResizeObserver(() => {
      chart.resize();
      if (chart.getWidth() !== width) {
        width = chart.getWidth();
        redraw();
      }
    }).observe(place);
    charts.push(redraw);
    return { chart, redraw };
  };

  // The map

  const drawMap = () => {
    const { utterances, prompts } = data.map;
    const chosen = byId("map-route"), withPrompts = byId("map-prompts"), onlyWrong = byId("map-wrong");
    if (!byId("map-chart")) return;
    let range = [0, 100];
    const places = new Map();
    utterances.route.forEach((route, n) => {
      if (!places.has(route)) places.set(route, [[], []]);
      places.get(route)[0].push(utterances.x[n]);
      places.get(route)[1].push(utterances.y[n]);
    });
    const middles = [...places].map(([route, [xs, ys]]) => [median(xs), median(ys), route]);
    middles.sort((a, b) => places.get(b[2])[0].length - places.get(a[2])[0].length);

    // Names stand where they cover few dots and no other name, and not far from the middle of their route.
    const CELL = 6, STEPS = 6; // pixels of the grid in which dots are counted; places that are tried each way
    const dotsBelow = (chart) => {
      const across = Math.ceil(chart.getWidth() / CELL) + 1, down = Math.ceil(chart.getHeight() / CELL) + 1;
      const sums = new Float64Array((across + 1) * (down + 1));
      const add = (x, y) => {
        const [left, top] = chart.convertToPixel("grid", [x, y]), column = Math.floor(left / CELL), row = Math.floor(top / CELL);
        if (column >= 0 && row >= 0 && column < across && row < down) sums[(row + 1) * (across + 1) + column + 1] += 1;
      };
      utterances.x.forEach((x, n) => add(x, utterances.y[n]));
      if (withPrompts.checked) prompts.x.forEach((x, n) => add(x, prompts.y[n]));
      for (let row = 1; row <= down; row++)
        for (let column = 1; column <= across; column++) {
          const at = row * (across + 1) + column;
          sums[at] += sums[at - 1] + sums[at - across - 1] - sums[at - across - 2];
        }
      const sum = (x, y) => sums[Math.max(0, Math.min(down, y)) * (across + 1) + Math.max(0, Math.min(across, x))];
      return (x, y, width, height) => {
        const left = Math.floor(x / CELL), top = Math.floor(y / CELL), right = Math.ceil((x + width) / CELL), bottom = Math.ceil((y + height) / CELL);
        return sum(right, bottom) - sum(left, bottom) - sum(right, top) + sum(left, top);
      };
    };
    const clear = (chart, step) => {
      let last = Infinity, taken = [], covered = null;
      return ({ dataIndex, rect, labelRect: { width, height } }) => {
        if (dataIndex <= last) [taken, covered] = [[], dotsBelow(chart)];
        last = dataIndex;
        const x = rect.x + (rect.width - width) / 2, y = rect.y + (rect.height - height) / 2;
        let best = null;
        for (let down = -STEPS; down <= STEPS; down++)
          for (let across = -STEPS; across <= STEPS; across++) {
            const dx = across * step, dy = down * step;
            const left = Math.max(2, Math.min(chart.getWidth() - width - 2, x + dx)), top = Math.max(2, Math.min(chart.getHeight() - height - 2, y + dy));
            if (taken.some((other) => left < other.left + other.width + 4 && other.left < left + width + 4 && top < other.top + other.height && other.top < top + height)) continue;
            const cost = covered(left - 2, top, width + 4, height) + Math.hypot(left - x, top - y) / (2 * step);
            if (!best || cost < best.cost) best = { left, top, width, height, cost };
          }
        if (!best) return { x: -1e4, y: -1e4 }; // no room beside the other names: the legend has it
        taken.push(best);
        return { x: best.left, y: best.top, align: "left", verticalAlign: "top" };
      };
    };

    const options = (width, chart) => {
      const picked = chosen.value === "" ? null : Number(chosen.value);
      const many = utterances.x.length > 1500, narrow = width < 560;
      const dotSize = (many ? 5 : 7) * (many && narrow ? 0.6 : 1);
      const dots = utterances.x.map((x, n) => {
        const route = utterances.route[n], other = picked !== null && route !== picked;
        return { value: [x, utterances.y[n], n], symbol: shapeOf(route), symbolSize: sized(shapeOf(route), dotSize), itemStyle: { color: other ? color("ghost") : hue(route), opacity: other ? 0.16 : many ? 0.6 : 0.75 } };
      });
      // The chosen route on top of the others.
      dots.sort((a, b) => a.itemStyle.opacity - b.itemStyle.opacity);
      const rings = [];
      if (withPrompts.checked) {
        prompts.x.forEach((x, n) => {
          const label = prompts.label[n], found = prompts.found[n], wrong = label !== found;
          if (onlyWrong.checked && !wrong) return;
          const other = picked !== null && label !== picked && found !== picked;
          if (other) return;
          const own = label < 0 ? color("soft") : hue(label);
          const shape = wrong ? CROSS : label < 0 ? "triangle" : shapeOf(label);
          rings.push({
            value: [x, prompts.y[n], n],
            symbol: shape,
            symbolSize: sized(shape, wrong ? 11 : 8) * (many ? 0.85 : 1) * (many && narrow ? 0.7 : 1),
            itemStyle: wrong ? { color: color("bad"), borderColor: color("surface"), borderWidth: 1 } : { color: color("surface"), borderColor: own, borderWidth: 1.8 },
          });
        });
      }
      // Crosses last, so that no ring hides them.
      rings.sort((a, b) => (a.symbol === CROSS) - (b.symbol === CROSS));
      const labels = middles
        .filter(([, , route]) => picked === null || route === picked)
        .map(([x, y, route]) => ({ value: [x, y, route], label: { position: "inside", formatter: () => cut(nameOf(route), narrow ? 16 : 26) } }));
      const hidden = { type: "value", min: -1.08, max: 1.08, show: false };
      return {
        grid: { left: 0, right: 0, top: 0, bottom: 0 },
        xAxis: hidden,
        yAxis: hidden,
        dataZoom: narrow && !range[0] ? [] : ["xAxisIndex", "yAxisIndex"].map((which) => ({ type: "inside", [which]: 0, start: range[0], end: range[1], filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, preventDefaultMouseMove: false })),
        tooltip: tooltip(({ seriesId, data: one }) => {
          const n = one.value[2];
          if (seriesId === "dots") return [utterances.text[n], [nameOf(utterances.route[n]), "quiet"]];
          const wrong = prompts.label[n] !== prompts.found[n];
          return [prompts.text[n], wrong ? [`expected ${nameOf(prompts.label[n])}, got ${nameOf(prompts.found[n])}`, "bad"] : [`${nameOf(prompts.label[n])}, as the label says`, "quiet"], [`confidence ${prompts.confidence[n].toFixed(2)}`, "quiet"]];
        }),
        series: [
          { id: "dots", type: "scatter", data: dots, emphasis: { scale: 1.8 }, animation: false },
          { id: "rings", type: "scatter", data: rings, emphasis: { scale: 1.6 }, animation: false },
          {
            id: "names", type: "scatter", data: labels, symbolSize: 0, silent: true, z: 9, animation: false,
            label: { show: true, color: color("ink"), fontSize: labels.length > 40 ? (narrow ? 10 : 11) : narrow ? 12 : 13, fontWeight: 600, textBorderColor: color("surface"), textBorderWidth: 3 },
            labelLayout: clear(chart, narrow ? 7 : 12),
          },
        ],
      };
    };
    const { chart, redraw } = draw("map-chart", options);
    const zoom = (factor) => {
      const middle = (range[0] + range[1]) / 2, half = Math.min(50, ((range[1] - range[0]) / 2) * factor);
      range = factor === Infinity ? [0, 100] : [Math.max(0, middle - half), Math.min(100, middle + half)];
      redraw();
    };
    byId("map-in").addEventListener("click", () => zoom(0.6));
    byId("map-out").addEventListener("click", () => zoom(1 / 0.6));
    byId("map-all").addEventListener("click", () => zoom(Infinity));
    // Which colour and shape is which route; a click shows the route alone, as the selection above does.
    const keys = new Map();
    const show = () => {
      for (const [route, key] of keys) key.setAttribute("aria-pressed", String(chosen.value === String(route)));
      redraw();
    };
    const toggle = (route) => {
      chosen.value = chosen.value === String(route) ? "" : String(route);
      show();
    };
    for (const route of [...places.keys()].sort((a, b) => a - b)) {
      const key = byId("map-routes").appendChild(document.createElement("li")).appendChild(document.createElement("button"));
      const svg = key.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg")), mark = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
      svg.setAttribute("viewBox", "0 0 14 14");
      svg.setAttribute("aria-hidden", "true");
      mark.setAttribute("d", OUTLINES[shapeOf(route)]);
      mark.style.fill = `var(--c${routes[route].color % HUES})`;
      key.type = "button";
      key.appendChild(document.createElement("bdi")).textContent = nameOf(route);
      key.addEventListener("click", () => toggle(route));
      keys.set(route, key);
    }
    for (const control of [chosen, withPrompts, onlyWrong]) control.addEventListener("change", show);
    chart.on("dblclick", ({ seriesId, data: one }) => {
      if (seriesId === "dots") toggle(chosen.value === "" ? utterances.route[one.value[2]] : Number(chosen.value));
    });
    // Where prompts are many, those that went right would hide the rest.
    onlyWrong.checked = prompts.x.length > 400;
    show();
    byId("map-controls").hidden = false;
  };

  // Routes against routes

  const drawSquare = () => {
    const square = data.square;
    const place = byId("square-chart");
    if (!place) return;
    let showing = "overlap";
    const shown = () => (showing === "overlap" ? square.routes.filter((route) => route >= 0) : square.routes);
    // Room for the longest name, as far as there is room.
    const margin = (width) => {
      const longest = Math.max(...shown().map((route) => nameOf(route).length));
      return Math.round(Math.min(longest * (shown().length > 24 ? 5.8 : 6.8) + 20, width * (width < 560 ? 0.32 : 0.2), 200));
    };
    // Names that would stand on each other are left out below: they are those of the rows, in the same order.
    const below = (width) => ((width - margin(width)) / shown().length < 11 ? 8 : margin(width));
    const options = (width) => {
      const ids = shown(), count = ids.length, narrow = width < 560;
      const table = square[showing];
      const side = margin(width);
      const cells = [];
      table.forEach((row, y) => {
        const total = row.reduce((sum, value) => sum + value, 0);
        row.forEach((value, x) => {
          if (!value) return;
          const share = showing === "overlap" ? value : value / total;
          const cell = { value: [x, y, Math.pow(share, 0.6), value, total] };
          if (x === y) Object.assign(cell, { visualMap: false, itemStyle: { color: color("diagonal") }, label: { color: color("soft") } });
          cells.push(cell);
        });
      });
      const size = (width - side - 12) / Math.max(count, 1);
      const names = ids.map((route) => nameOf(route));
      const label = { color: color("soft"), interval: 0, width: side - 12, overflow: "truncate", fontSize: count > 24 ? 10 : 12, margin: 6 };
      return {
        grid: { left: side, right: 12, top: 6, bottom: below(width), outerBoundsMode: "none" },
        xAxis: axis({ type: "category", data: names, splitLine: { show: false }, axisLabel: { ...label, rotate: 90, show: below(width) > 8 }, axisLine: { show: false } }),
        yAxis: axis({ type: "category", data: names, inverse: true, splitLine: { show: false }, axisLabel: label, axisLine: { show: false } }),
        visualMap: { show: false, min: 0, max: 1, dimension: 2, inRange: { color: [color("heat-low"), color("heat-mid"), color("heat-high")] } },
        tooltip: tooltip(({ data: one }) => {
          const [x, y, , value, total] = one.value;
          const [from, to] = [nameOf(ids[y]), nameOf(ids[x])];
          if (showing === "confusion") return [[`${value} of ${total}`, "strong"], x === y ? `${from}: right` : `${from} went to ${to}`];
          return [[percent(value, 1), "strong"], x === y ? `of the vote on ${from} stays there` : `of the vote on ${from} goes to ${to}`];
        }),
        series: [{
          type: "heatmap", data: cells, animation: false,
          itemStyle: { borderColor: color("surface"), borderWidth: count > 24 ? 0.5 : 1.5, borderRadius: size > 14 ? 3 : 0 },
          label: { show: size > 30, fontSize: 11, color: color("ink"), formatter: ({ value }) => (showing === "overlap" ? (value[3] >= 0.005 ? Math.round(value[3] * 100) : "") : value[3]) },
          emphasis: { itemStyle: { borderColor: color("ink"), borderWidth: 1.5 } },
        }],
      };
    };
    const fit = () => {
      const rows = shown().length, width = place.clientWidth;
      const row = width < 560 ? Math.max(14, Math.min(34, (width - margin(width)) / rows)) : Math.min(40, Math.max(15, 560 / rows));
      place.style.height = Math.round(below(width) + 12 + rows * row) + "px";
    };
    fit();
    new ResizeObserver(fit).observe(place.parentElement);
    const { redraw, chart } = draw("square-chart", options);
    for (const which of ["overlap", "confusion"]) {
      byId("square-" + which).addEventListener("click", () => {
        showing = which;
        for (const one of ["overlap", "confusion"]) byId("square-" + one).setAttribute("aria-pressed", String(one === which));
        fit();
        chart.resize();
        redraw();
      });
    }
    byId("square-controls").hidden = false;
  };

  // Confidence

  const drawReliability = () => {
    const filled = data.bins.filter((bin) => bin[2]);
    const most = Math.max(...data.bins.map((bin) => bin[2]));
    draw("reliability-chart", (width) => ({
      grid: [{ top: 12, bottom: 104 }, { height: 40, bottom: 44 }].map((one) => ({ left: 64, right: 22, outerBoundsMode: "none", ...one })),
      xAxis: [
        shareAxis("", { axisLabel: { show: false } }),
        shareAxis("said (confidence)", { gridIndex: 1, containShape: false, splitLine: { show: false } }),
      ],
      yAxis: [
        shareAxis("best route right", { nameGap: 46 }),
        axis({ type: "value", gridIndex: 1, min: 0, max: most, splitLine: { show: false }, axisLabel: { show: false }, axisLine: { show: false } }),
      ],
      tooltip: tooltip(({ data: one }) => {
        const [low, high, count, said, right] = one.bin;
        return [[`${count.toLocaleString("en")} decisions`, "strong"], `said ${said.toFixed(2)}, best route right in ${right.toFixed(2)}`, [`confidence ${low.toFixed(2)} to ${high.toFixed(2)}`, "quiet"]];
      }),
      series: [
        { type: "line", data: [[0, 0], [1, 1]], symbol: "none", silent: true, animation: false, lineStyle: { color: color("ghost"), type: "dashed", width: 1.5 }, tooltip: { show: false } },
        { type: "line", data: filled.map((bin) => [bin[3], bin[4]]), symbol: "none", silent: true, lineStyle: { color: color("accent"), width: 1.5, opacity: 0.45 } },
        { type: "scatter", data: filled.map((bin) => ({ value: [bin[3], bin[4]], bin, symbolSize: 7 + 15 * Math.sqrt(bin[2] / most) })), itemStyle: { color: color("accent"), borderColor: color("surface"), borderWidth: 1.5 } },
        { type: "bar", xAxisIndex: 1, yAxisIndex: 1, barWidth: Math.max(3, ((width - 80) / data.bins.length) * 0.72), data: filled.map((bin) => ({ value: [(bin[0] + bin[1]) / 2, bin[2]], bin })), itemStyle: { color: color("accent"), opacity: 0.55, borderRadius: [2, 2, 0, 0] } },
      ],
    }));
  };

  const drawCurve = () => {
    const curve = data.curve;
    if (!curve || !curve.points.length) return;
    const lowest = Math.min(...curve.points.map((point) => point[2]), ...(curve.chosen ? [curve.chosen[1]] : []));
    const floor = Math.max(0, Math.floor(lowest * 10 - 0.2) / 10), even = floor < 0.55 ? Math.floor(floor * 5) / 5 : floor;
    draw("curve-chart", () => ({
      grid: { left: 64, right: 20, top: 16, bottom: 44, outerBoundsMode: "none" },
      xAxis: shareAxis("coverage"),
      yAxis: shareAxis("precision", { min: even, interval: floor < 0.55 ? 0.2 : floor < 0.75 ? 0.1 : floor < 0.85 ? 0.05 : 0.02, nameGap: 46 }),
      tooltip: { ...tooltip((at) => {
        const [coverage, precision, bound] = (Array.isArray(at) ? at[0] : at).data.value;
        return [[`min_confidence ${bound.toFixed(3)}`, "strong"], `coverage ${percent(coverage, 1)}`, `precision ${percent(precision, 1)}`];
      }), trigger: "axis", axisPointer: { snap: true, lineStyle: { color: color("ghost") } } },
      series: [
        { type: "line", data: curve.points.map(([bound, coverage, precision]) => ({ value: [coverage, precision, bound] })), symbol: "circle", symbolSize: 8, showSymbol: curve.points.length < 2, itemStyle: { color: color("accent") }, lineStyle: { color: color("accent"), width: 2.2 }, areaStyle: { color: color("accent"), opacity: 0.08, origin: "start" } },
        { type: "scatter", silent: true, tooltip: { show: false }, data: curve.chosen ? [{ value: curve.chosen }] : [], symbolSize: 14, z: 5, itemStyle: { color: color("warn"), borderColor: color("surface"), borderWidth: 2, opacity: 1 }, label: { show: true, formatter: "now", position: "left", color: color("ink"), fontWeight: 600, textBorderColor: color("surface"), textBorderWidth: 3 } },
      ],
    }));
  };

  // Cost

  const drawCosts = () => {
    const costs = data.costs;
    if (!costs) return;
    const special = [["routed", "as routed"], ["moved", "if outcomes counted"]].filter(([key]) => costs[key]);
    const compared = ["random", "length", "oracle"].filter((key) => costs[key]);
    const shown = [...costs.models, ...[...compared, ...special.map(([key]) => key)].map((key) => costs[key])];
    const qualities = shown.map((one) => one.quality);
    const floor = Math.max(0, Math.floor(Math.min(...qualities) * 20 - 0.5) / 20);
    const ceiling = Math.min(1, Math.ceil(Math.max(...qualities) * 20 + 0.5) / 20);
    const point = (one, told) => ({ value: [one.usd, one.quality], told });
    const label = { show: true, position: "right", formatter: ({ data: one }) => cut(one.told, 22), color: color("ink"), fontSize: 12, textBorderColor: color("surface"), textBorderWidth: 3 };
    // The points of like models lie close together: each name goes to the side of its point where it covers least.
    let taken = [];
    const covered = (one, other) => Math.max(0, Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x)) * Math.max(0, Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y));
    const beside = (chart) => ({ seriesIndex, dataIndex, rect, labelRect: { width, height } }) => {
      const first = special.length ? 0 : 1;
      if (seriesIndex === first && dataIndex === 0) {
        taken = shown.map((one) => chart.convertToPixel("grid", [one.usd, one.quality])).map(([x, y]) => ({ x: x - 5, y: y - 5, width: 10, height: 10 }));
      }
      const centre = rect.x + (rect.width - width) / 2, middle = rect.y + (rect.height - height) / 2;
      // Beside the point, then above and below; where all that is taken, further off.
      const around = (gap) => {
        const right = rect.x + rect.width + gap, left = rect.x - width - gap, above = rect.y - height - gap + 3, below = rect.y + rect.height + gap - 3;
        return [[right, middle], [left, middle], ...[above, below].flatMap((y) => [centre, right, left].map((x) => [x, y]))];
      };
      const sides = [4, 14, 26].flatMap((gap) => around(gap).map(([x, y]) => ({ x, y, width, height, far: gap })))
        .filter((one) => one.x >= 66 && one.x + width <= chart.getWidth() && one.y >= 0 && one.y + height <= chart.getHeight() - 44)
        .map((one) => ({ ...one, cost: one.far + taken.reduce((sum, other) => sum + covered(one, other), 0) }));
      const place = sides.reduce((best, one) => (one.cost < best.cost ? one : best), sides[0] || { x: centre, y: middle, width, height });
      taken.push(place);
      return { x: place.x, y: place.y, align: "left", verticalAlign: "top" };
    };
    draw("costs-chart", (_, chart) => {
      const dearest = costs.models[costs.models.length - 1], cheapest = costs.models[0];
      const baseline = costs.models.find((one) => one.name === costs.baseline) || dearest;
      return {
        grid: { left: 64, right: 24, top: 20, bottom: 44, outerBoundsMode: "none" },
        xAxis: axis({ type: "value", name: "$ per million tokens", nameGap: 28, min: 0, splitLine: { show: false }, axisLabel: { color: color("soft"), formatter: (v) => "$" + v } }),
        yAxis: shareAxis("expected quality", { min: floor, max: ceiling, nameGap: 46, axisLabel: { color: color("soft"), formatter: (v) => v.toFixed(2) } }),
        tooltip: tooltip(({ data: one }) => [[one.single ? `always ${one.told}` : one.told, "strong"], `${dollars(one.value[0])} per million tokens`, `expected quality ${one.value[1].toFixed(3)}`]),
        series: [
          { type: "scatter", symbolSize: 17, z: 5, data: special.map(([key, told]) => ({ ...point(costs[key], told), itemStyle: { color: key === "routed" ? color("accent") : color("warn"), borderColor: color("surface"), borderWidth: 2 } })), label: { ...label, fontWeight: 650 }, labelLayout: beside(chart) },
          { type: "scatter", symbolSize: 12, data: costs.models.map((one) => ({ ...point(one, one.name === costs.baseline ? `${one.name} (default)` : one.name), single: true })), itemStyle: { color: color("surface"), borderColor: color("soft"), borderWidth: 2 }, label, labelLayout: beside(chart) },
          { type: "scatter", symbol: "diamond", symbolSize: 11, data: compared.map((key) => point(costs[key], key)), itemStyle: { color: color("soft") }, label: { ...label, color: color("soft") }, labelLayout: beside(chart) },
          { type: "line", silent: true, symbol: "none", animation: false, data: cheapest && baseline && cheapest !== baseline ? [[cheapest.usd, cheapest.quality], [baseline.usd, baseline.quality]] : [], lineStyle: { color: color("ghost"), type: "dashed", width: 1.5 } },
        ],
      };
    });
  };

  const drawSavings = () => {
    const savings = data.savings;
    if (!savings) return;
    let spent = 0, baseline = 0;
    const rows = savings.periods.map(([day, decisions, here, always]) => {
      spent += here;
      baseline += always;
      return { day, decisions, spent, baseline };
    });
    const line = (key, name, shade, area) => ({
      type: "line", name, data: rows.map((row) => row[key]), symbol: rows.length > 40 ? "none" : "circle", symbolSize: 5, showSymbol: rows.length <= 40,
      lineStyle: { color: shade, width: 2 }, itemStyle: { color: shade }, areaStyle: area ? { color: shade, opacity: 0.1 } : undefined,
      endLabel: { show: true, formatter: name, color: shade, fontWeight: 600, offset: [-8, -12], align: "right", textBorderColor: color("surface"), textBorderWidth: 3 },
    });
    draw("savings-chart", () => ({
      grid: { left: 64, right: 24, top: 28, bottom: 36, outerBoundsMode: "none" },
      xAxis: axis({ type: "category", boundaryGap: false, data: rows.map((row) => row.day), splitLine: { show: false } }),
      yAxis: axis({ type: "value", min: 0, axisLine: { show: false }, axisLabel: { color: color("soft"), formatter: (v) => "$" + v.toLocaleString("en") } }),
      tooltip: { ...tooltip((at) => {
        const row = rows[(Array.isArray(at) ? at[0] : at).dataIndex];
        return [[(savings.days === 1 ? "Until " : "Until the week of ") + row.day, "strong"], `${dollars(row.spent)} spent, measured`, `${dollars(row.baseline)} with ${savings.model} alone, estimated`, [`${row.decisions.toLocaleString("en")} decisions`, "quiet"]];
      }), trigger: "axis", axisPointer: { lineStyle: { color: color("ghost") } } },
      series: [line("baseline", "always " + cut(savings.model, 18) + ", estimated", color("soft"), false), line("spent", "as routed, measured", color("accent"), true)],
    }));
  };

  // What needs no chart

  const paintSwatches = () => {
    for (const swatch of document.querySelectorAll(".swatch")) swatch.style.background = color("c" + (Number(swatch.dataset.color) % HUES));
  };
  const findRoutes = () => {
    const box = byId("routes-find");
    if (!box) return;
    const cards = [...document.querySelectorAll(".route")], more = byId("routes-more");
    box.addEventListener("input", () => {
      const wanted = box.value.trim().toLowerCase();
      let found = 0;
      for (const card of cards) {
        card.hidden = !card.dataset.name.toLowerCase().includes(wanted);
        found += !card.hidden;
      }
      more.open = wanted !== "";
      byId("routes-found").textContent = wanted ? `${found} found` : "";
    });
    byId("routes-controls").hidden = false;
  };

  const start = () => {
    for (const part of [paintSwatches, findRoutes, drawMap, drawSquare, drawReliability, drawCurve, drawCosts, drawSavings]) part();
    dark.addEventListener("change", () => {
      paintSwatches();
      for (const redraw of charts) redraw();
    });
    document.documentElement.dataset.drawn = "yes";
  };
  start();
})();
