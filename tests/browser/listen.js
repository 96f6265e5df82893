// From now on, keep what a screen reader is told in window.heard.
() => {
  window.heard = [];
  for (const region of document.querySelectorAll("[aria-live], [role=status], [role=alert], [role=log]")) {
    const hear = () => region.textContent.trim() && window.heard.push(region.textContent.trim());
    new MutationObserver(hear).observe(region, { childList: true, subtree: true, characterData: true });
  }
}
