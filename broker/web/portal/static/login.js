"use strict";
// Sends the secret of a login link, which is in the fragment, and removes it from the address and the history.
const form = document.getElementById("login");
const secret = location.hash.slice(1);
if (secret) {
  history.replaceState(null, "", location.pathname + location.search);
  document.getElementById("proof").value = secret;
  if (!("loggedIn" in form.dataset)) form.submit();
}
