"use strict";
// Draw each figure when it comes into view, and show the panels of the selected method and question.
(() => {
  const chosen = { cell: "0", map: "0", diff: "0" };
  const narrow = window.matchMedia("(max-width: 40rem)").matches; // the tool bar would cover the title
  const config = {
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    displayModeBar: narrow ? false : "hover",
  };

  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const darkColours = JSON.parse(document.getElementById("dark-colours").textContent);

  const draw = (element, { again = false, width = null, dark = night.matches } = {}) => {
    if (element.dataset.drawn && !again) return;
    element.dataset.drawn = "yes";
    let text = document.getElementById(element.dataset.figure).textContent;
    if (dark) darkColours.forEach(([light, colour]) => { text = text.replaceAll(light, colour); });
    const figure = JSON.parse(text);
    if (width) figure.layout.width = width;
    Plotly.newPlot(element, figure.data, figure.layout, { ...config, responsive: !width });
  };

  const seen = new IntersectionObserver(
    (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => { draw(e.target); seen.unobserve(e.target); }),
    { rootMargin: "400px" },
  );
  const figures = document.querySelectorAll("[data-figure]");
  figures.forEach((element) => {
    const inView = element.offsetParent && element.getBoundingClientRect().top < window.innerHeight;
    inView ? draw(element) : seen.observe(element);
  });
  const redraw = (options) => figures.forEach((e) => { if (e.offsetParent) draw(e, { again: true, ...options }); });
  night.addEventListener("change", () => figures.forEach((e) => { if (e.dataset.drawn) draw(e, { again: true }); }));
  window.addEventListener("beforeprint", () => {
    document.body.classList.add("printing");
    redraw({ width: 680, dark: false });
  });
  window.addEventListener("afterprint", () => {
    document.body.classList.remove("printing");
    redraw({});
  });

  const show = () => {
    document.querySelectorAll(".panel").forEach((panel) => {
      panel.hidden = Object.entries(chosen).some(([kind, value]) => kind in panel.dataset && panel.dataset[kind] !== value);
      if (panel.hidden) return;
      panel.querySelectorAll("[data-drawn]").forEach((element) => Plotly.Plots.resize(element));
    });
    document.querySelectorAll("[data-pick]").forEach((button) => {
      button.setAttribute("aria-pressed", String(chosen[button.dataset.pick] === button.dataset.value));
    });
    document.querySelectorAll("[data-choose]").forEach((select) => { select.value = chosen[select.dataset.choose]; });
  };

  // A selection also changes panels above the clicked one. Scroll so that the clicked element stays in place.
  const choose = (kind, value, anchor) => {
    const before = anchor.getBoundingClientRect().top;
    chosen[kind] = value;
    show();
    window.scrollBy(0, anchor.getBoundingClientRect().top - before);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-pick]");
    if (button) choose(button.dataset.pick, button.dataset.value, button);
  });
  document.addEventListener("change", (event) => {
    const select = event.target.closest("[data-choose]");
    if (select) choose(select.dataset.choose, select.value, select);
  });

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const inBand = new Set();
  const here = new IntersectionObserver(
    (entries) => {
      entries.forEach((e) => (e.isIntersecting ? inBand.add(e.target.id) : inBand.delete(e.target.id)));
      const first = [...links.keys()].find((id) => inBand.has(id));
      links.forEach((link, id) => link.classList.toggle("here", id === first));
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  document.querySelectorAll("main section").forEach((section) => here.observe(section));
})();
