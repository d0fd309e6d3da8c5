// Typeset formulas by the MathJax beside this file; pages without a formula do not load it.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEscapes: true, processEnvironments: true },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex", enableMenu: false },
};
(() => {
  const here = document.currentScript.src;
  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector(".arithmatex")) return;
    const script = document.createElement("script");
    script.src = new URL("mathjax/tex-chtml.js", here).href;
    document.head.append(script);
  });
})();
