"use strict";
// Sends the secret of a login link, which is in the fragment, and removes it from the address and the history.
// The next page says whose login it is, and asks.
const secret = location.hash.slice(1);
if (secret) {
  history.replaceState(null, "", location.pathname + location.search);
  document.getElementById("proof").value = secret;
  document.getElementById("login").submit();
}
