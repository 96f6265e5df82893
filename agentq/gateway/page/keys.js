// The keyboard: / goes to the search field, Esc closes the menu; and the menu of narrow windows.

const menu = document.getElementById("menu");
const nav = document.getElementById("nav");

function opened(is) {
  menu.setAttribute("aria-expanded", String(is));
  nav.classList.toggle("open", is);
}

menu.addEventListener("click", () => opened(menu.getAttribute("aria-expanded") !== "true"));
nav.addEventListener("click", (event) => event.target.closest("a") && opened(false));

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // what stands behind # is which view is shown
  document.getElementById("main").focus();
});

function isWriting(element) {
  return element.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") {
    opened(false);
    menu.focus();
  }
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isWriting(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  event.preventDefault();
  const field = document.querySelector("main [type=search]");
  if (field) field.focus();
  else location.hash = "#/tasks?focus=search";
});
