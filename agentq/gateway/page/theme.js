// Before anything is drawn: the theme that was chosen on this device. No module, so that it runs first.

(() => {
  const chosen = localStorage.getItem("agentq.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
