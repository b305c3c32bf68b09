/** Formulas as MathML, by a library that is loaded with the first of them. It builds elements. */

import type { Formula } from "../pure/math";

/** What `element` shows now, and what it is to show once the library is here. */
export function showFormula(element: HTMLElement, { tex, display, raw }: Formula): HTMLElement {
  if (element.dataset.raw === raw) return element;
  element.dataset.raw = raw;
  element.toggleAttribute("data-display", display);
  element.textContent = raw;
  void import("temml").then(({ default: temml }) => {
    if (element.dataset.raw !== raw) return; // it has grown since
    try {
      temml.render(tex, element, { displayMode: display, trust: false, throwOnError: true });
    } catch {
      const code = document.createElement("code");
      code.textContent = raw;
      element.replaceChildren(code);
    }
  });
  return element;
}
