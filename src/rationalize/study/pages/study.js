"use strict";
// Keys for one item: 1 2 3 answer the current question and go on, Backspace goes back, Enter sends.
// Without this script the form works as any form does.
const form = document.querySelector("form");
const questions = [...form.querySelectorAll("fieldset")];
let now = 0;

function go(to) {
  now = Math.min(Math.max(to, 0), questions.length - 1);
  questions.forEach((question, i) => question.classList.toggle("now", i === now));
  const radios = [...questions[now].querySelectorAll("input")];
  (radios.find((radio) => radio.checked) || radios[0]).focus({ preventScroll: now === 0 });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const radios = questions[now].querySelectorAll("input");
  const place = Number(event.key) - 1;
  if (radios[place]) {
    radios[place].checked = true;
    if (now < questions.length - 1) go(now + 1);
    else radios[place].focus();
  } else if (event.key === "Backspace") go(now - 1);
  else if (event.key === "Enter") form.requestSubmit();
  else return;
  event.preventDefault();
});

form.addEventListener("focusin", (event) => {
  const at = questions.indexOf(event.target.closest("fieldset"));
  if (at >= 0 && at !== now) {
    now = at;
    questions.forEach((question, i) => question.classList.toggle("now", i === now));
  }
});

// a second press of Enter must not send the vote a second time
form.addEventListener("submit", (event) => {
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
});

window.addEventListener("pageshow", () => delete form.dataset.sent);

go(0);
