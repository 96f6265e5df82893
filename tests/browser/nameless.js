// What can be used in this document and has no name that a screen reader could say.
() => {
  const hasName = (element) => {
    const isField = ["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName);
    const attributes = ["aria-label", "aria-labelledby", "title"].some((name) => element.getAttribute(name));
    return attributes || (isField ? element.labels.length > 0 : element.textContent.trim() !== "");
  };
  return [...document.querySelectorAll("button, a[href], input, select, textarea, summary, [role=listbox], dialog[open]")]
    .filter((element) => element.checkVisibility() && !hasName(element))
    .map((element) => element.outerHTML.slice(0, 120));
}
