"use strict";
// Draw each figure when it comes into view, and show the panels of the selected method and question.
(() => {
  const chosen = { cell: "0", map: "0", diff: "0" };
  const narrow = window.matchMedia("(max-width: 40rem)").matches; // the tool bar would cover the title
  const config = {
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    displayModeBar: narrow ? false : "hover",
  };

  const draw = (element) => {
    if (element.dataset.drawn) return;
    element.dataset.drawn = "yes";
    const figure = JSON.parse(document.getElementById(element.dataset.figure).textContent);
    Plotly.newPlot(element, figure.data, figure.layout, config);
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
  window.addEventListener("beforeprint", () => figures.forEach((e) => { if (e.offsetParent) draw(e); }));

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
