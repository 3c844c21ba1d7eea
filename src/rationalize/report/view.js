"use strict";
// Fetches the page again and shows it in the place of the old one; what was folded stays so.
(() => {
  const EVERY = 2000; // milliseconds
  async function follow() {
    try {
      const answer = await fetch("/", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
      for (const old of document.querySelectorAll("details")) {
        fresh.querySelector(`#${CSS.escape(old.id)}`)?.toggleAttribute("open", old.open);
      }
      const focused = document.activeElement?.closest?.("details")?.id;
      document.querySelector("main").replaceWith(fresh);
      if (focused) document.getElementById(focused)?.querySelector("summary").focus();
      document.title = document.title.replace(/^\(not followed\) /, "");
    } catch {
      if (!document.title.startsWith("(not")) document.title = `(not followed) ${document.title}`;
    }
    setTimeout(follow, EVERY);
  }
  setTimeout(follow, EVERY);
})();
