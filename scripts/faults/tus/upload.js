// Upload a file with tus-js-client, and print the id of the file that comes of it.
//
//     node upload.js URL TOKEN FILE

import { createReadStream, statSync } from "node:fs";
import { basename } from "node:path";
import { Upload } from "tus-js-client";

const [url, token, path] = process.argv.slice(2);
let fileId;

const upload = new Upload(createReadStream(path), {
  endpoint: `${url}/api/v1/files/uploads`,
  headers: { Authorization: `Bearer ${token}` },
  uploadSize: statSync(path).size,
  metadata: { filename: basename(path), filetype: "application/octet-stream" },
  chunkSize: 32 * 2 ** 20, // a stream can't be read again, so so much of it is kept
  retryDelays: [0, 1000, 3000, 5000, 10000, 10000],
  onAfterResponse: (_request, response) => {
    fileId = response.getHeader("Upload-File-Id") ?? fileId;
  },
  onShouldRetry: (error) => {
    console.error(`retries after: ${error.message.slice(0, 200)}`);
    const status = error.originalResponse?.getStatus() ?? 0;
    return status < 400 || status === 409 || status === 423 || status >= 500;
  },
  onError: (error) => {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess: () => {
    console.log(fileId);
    process.exit(0); // connections that were cut would keep it
  },
});
upload.start();
