"use strict";

(() => {
  const place = document.getElementById("swagger-ui");

  window.ui = SwaggerUIBundle({
    domNode: place,
    url: place.dataset.document,
    deepLinking: true,
    displayRequestDuration: true,
    filter: true,
    persistAuthorization: true,
    presets: [SwaggerUIBundle.presets.apis],
    tryItOutEnabled: true,
    // Its badge would send the document's address to another host.
    validatorUrl: null,
  });
})();
