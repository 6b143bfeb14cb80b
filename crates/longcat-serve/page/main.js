// The page: asks the server what there is, then sets up its parts.

import * as compare from "./compare.js";
import * as compose from "./compose.js";
import * as gallery from "./gallery.js";
import * as jobs from "./jobs.js";
import * as store from "./store.js";
import * as viewer from "./viewer.js";
import { $ } from "./dom.js";

async function start() {
  try {
    await store.start();
  } catch (error) {
    const refused = error.status === 401;
    $("connection").textContent = refused ? "The server wants another token: load this page again." : error.message;
    $("connection").hidden = false;
    // A server that is being started again.
    if (!refused) setTimeout(start, 3000);
    return;
  }
  $("connection").hidden = true;
  const { model, devices, dtype } = store.options;
  $("model").textContent = [model, devices.join(", "), dtype].filter(Boolean).join(" · ");
  compose.start();
  jobs.start();
  gallery.start();
  viewer.start();
  compare.start();
  document.body.classList.add("ready");
  store.follow({
    open: () => ($("connection").hidden = true),
    lost: () => {
      $("connection").textContent = "The server does not answer. Trying again…";
      $("connection").hidden = false;
    },
  });
}

start();
