// The search computes in a worker, and a page that was opened from disk (file://) may start none. There the worker's
// script runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `<script src="${url}"></script>`;
      this.started = new Promise((resolve) => frame.addEventListener("load", () => resolve(frame.contentWindow)));
      this.started.then((worker) => {
        worker.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      });
      document.body.append(frame);
    }

    postMessage(data) {
      this.started.then((worker) => worker.dispatchEvent(new worker.MessageEvent("message", { data })));
    }
  };
}
