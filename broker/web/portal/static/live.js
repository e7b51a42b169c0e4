"use strict";
// Keeps the parts of the page that are marked with data-live as the server has them, and announces changes of state.
const announcement = document.getElementById("announcement");
let loading = false;
let outdated = false;

async function refresh() {
  outdated = true;
  if (loading) return;
  loading = true;
  while (outdated) {
    outdated = false;
    const response = await fetch(location.href).catch(() => null);
    if (response?.redirected) location.reload();
    if (!response?.ok || response.redirected) break;
    replace(new DOMParser().parseFromString(await response.text(), "text/html"));
  }
  loading = false;
}

function replace(page) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh || fresh.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.replaceChildren(...fresh.childNodes);
    if (focused) document.getElementById(focused)?.focus();
  }
}

const events = new EventSource(document.body.dataset.events);
events.addEventListener("refresh", refresh);
events.addEventListener("announce", (event) => { announcement.textContent = event.data; });
events.addEventListener("ended", () => location.reload());
