// Elements, and what is said to screen readers.

/** The element of an id. */
export const $ = (id) => document.getElementById(id);

/**
 * Makes an element. Of `attributes`, functions are listeners, `true` and `false` switch an attribute, and
 * `undefined` leaves it out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** Shows a text in an element, or hides it where there is none. */
export function show(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

/** Says something to a screen reader, once it has said what it says now. */
export function announce(text) {
  const status = $("status");
  // The same text again is a change only after another one.
  status.textContent = "";
  requestAnimationFrame(() => (status.textContent = text));
}

/** Whether things may move by themselves. */
export const mayMove = () => !matchMedia("(prefers-reduced-motion: reduce)").matches;
