"use strict";
(() => {
  const root = document.documentElement;
  const { plots } = JSON.parse(document.getElementById("report-data").textContent);
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();

  // ---- colours: "@name" in a figure is the page's custom property of that name
  const property = (name) => getComputedStyle(root).getPropertyValue(`--${/^\d$/.test(name) ? "c" : ""}${name}`).trim();
  function coloured(value, isColour) {
    if (typeof value === "string") {
      if (!isColour || value[0] !== "@") return value;
      const [, name, opacity] = /^@([a-z]*\d?)(?:\/(\w\w))?$/.exec(value) ?? [];
      return name ? property(name) + (opacity ?? "") : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, isColour));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key, coloured(item, /color/.test(key))]),
    );
  }

  function axis(own, small) {
    const base = { gridcolor: property("faint"), linecolor: property("line"), zeroline: false, automargin: true };
    return { ...base, ...(small ? { tickfont: { size: 10 }, nticks: 5 } : {}), ...coloured(own, false) };
  }

  function layoutOf(plot) {
    const small = plot.height < 240;
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: property("ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
      margin: small ? { l: 8, r: 8, t: 8, b: 8 } : { l: 10, r: 10, t: 14, b: 10 },
      height: plot.height,
      autosize: true,
      showlegend: false,
      hoverlabel: { bgcolor: property("surface"), bordercolor: property("line"), font: { color: property("ink") } },
      ...coloured(plot.layout, false),
    };
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(plot.layout).filter((key) => /^[xy]axis/.test(key))])) {
      layout[name] = axis(plot.layout[name] ?? {}, small);
    }
    return layout;
  }

  function tracesOf(plot) {
    return plot.data.map((trace) => coloured(trace, false));
  }

  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
  const canvases = [...document.querySelectorAll("[data-plot]")];

  function render(canvas) {
    const plot = plots[canvas.dataset.plot];
    Plotly.react(canvas, tracesOf(plot), layoutOf(plot), config);
    if (drawn.has(canvas)) return;
    drawn.add(canvas);
    canvas.on("plotly_hover", (event) => showDrawing(event));
    canvas.on("plotly_click", (event) => showDrawing(event));
    canvas.on("plotly_unhover", hideDrawing);
  }
  const renderAll = () => canvases.forEach(render);

  // ---- the drawing of a network that is pointed at
  const hover = document.getElementById("hover");
  function showDrawing(event) {
    const point = event.points[0];
    const drawing = document.getElementById(`drawing-${point.customdata}`);
    if (!drawing) return hideDrawing();
    hover.replaceChildren(drawing.firstElementChild.cloneNode(true));
    hover.hidden = false;
    const { clientX: x = 0, clientY: y = 0 } = event.event ?? {};
    const { width, height } = hover.getBoundingClientRect();
    hover.style.left = `${Math.max(8, Math.min(x + 16, innerWidth - width - 8))}px`;
    hover.style.top = `${y > innerHeight / 2 ? Math.max(8, y - height - 24) : y + 24}px`;
  }
  function hideDrawing() {
    hover.hidden = true;
  }
  addEventListener("scroll", hideDrawing, { passive: true });

  // ---- any two metrics
  for (const chooser of document.querySelectorAll(".chooser")) {
    const plot = plots[chooser.dataset.for];
    const { axes, values, fronts, texts, numbers } = plot.choices;
    chooser.addEventListener("change", () => {
      const [y, x] = ["y", "x"].map((name) => chooser.querySelector(`[data-axis=${name}]`).value);
      const front = fronts[`${x} ${y}`] ?? [];
      const at = (items) => front.map((place) => items[place]);
      Object.assign(plot.data[0], { x: values[x], y: values[y] });
      Object.assign(plot.data[1], { x: at(values[x]), y: at(values[y]), text: at(texts), customdata: at(numbers) });
      Object.assign(plot.layout, { xaxis: axes[x], yaxis: axes[y] });
      render(document.querySelector(`[data-plot="${chooser.dataset.for}"]`));
    });
  }

  // ---- themes: the system's, or the one that was chosen; paper is light
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  function themed() {
    button.textContent = isDark() ? "light" : "dark";
    button.setAttribute("aria-label", `switch to the ${button.textContent} theme`);
    renderAll();
  }
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    themed();
  });
  prefersDark.addEventListener("change", themed);
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    renderAll();
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    renderAll();
  });
  themed();
})();
