"use strict";

(() => {
  const place = document.getElementById("redoc");

  Redoc.init(place.dataset.document, { hideHostname: true, sortPropsAlphabetically: false }, place);
})();
