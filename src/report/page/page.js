"use strict";
const root = document.documentElement;
root.classList.add("js");

const button = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } }; // a file may have no storage
const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const say = () => { button.textContent = isDark() ? "Light" : "Dark"; };
if (["dark", "light"].includes(remembered())) root.dataset.theme = remembered();
button.hidden = false;
button.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* not remembered */ }
  say();
});
dark.addEventListener("change", say);
say();

for (const slider of document.querySelectorAll(".frames input")) {
  slider.hidden = false;
  const move = () => {
    slider.parentElement.style.setProperty("--at", slider.value + "%");
    slider.setAttribute("aria-valuetext", slider.value + " % bicubic");
  };
  slider.addEventListener("input", move);
  move();
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") root.classList.add("quiet"); });
for (const kind of ["focusin", "pointerover"]) {
  document.addEventListener(kind, (event) => { if (event.target.closest?.("tr.here")) root.classList.remove("quiet"); });
}
