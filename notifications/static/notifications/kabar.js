/**
 * Kabar's client for browsers: one dependency-free ES module.
 *
 *     import { Kabar } from "/static/notifications/kabar.js";
 *     const kabar = new Kabar();                       // on Kabar's own pages: the session's cookie
 *     const kabar = new Kabar({ base: "https://kabar.example.org", token });
 *     const receipt = await kabar.submit("csv.report", {}, { files: { file } });
 *     const job = await kabar.watch(receipt.jobId, { onState: (job) => draw(job.progress) }).done;
 *
 * News comes over one WebSocket; where sockets fail, by polling. Whatever the door, an event is given once and in
 * order: what was seen is dropped by (jobId, sequence), progress that isn't newer by its version, and after a break
 * both doors go on from the last sequence or cursor.
 *
 * @typedef {Object} Job the contract's Job: `jobId`, `status`, `done`, `progress`, `result`, `sequence`, `version` …
 * @typedef {Object} KabarEvent the envelope: `id` (null for progress), `type`, `timestamp`, `sequence`, `data` (a Job, or a Batch)
 * @typedef {"idle"|"live"|"reconnecting"|"polling"|"closed"} ConnectionState
 * @typedef {{state: ConnectionState, retryAt: number|null}} Connection `retryAt`: milliseconds since 1970
 */

const SUBPROTOCOL = "kabar.v1";
const NO_CREDENTIAL = 4401;
const FINAL_EVENTS = new Set(["job.completed", "job.failed", "job.cancelled"]);

const OPEN_MS = 10_000; // a socket that isn't open by then has failed
const PING_MS = 25_000;
const SILENT_MS = 45_000; // without a word for so long, a socket is dead though nobody closed it
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;
const FAILURES_BEFORE_POLLING = 2;
const HELD_SECONDS = 20; // how long a poll may be held open
const POLL_PAUSE_MS = 1_000;
const FINISHED_PAUSE_MS = 5_000; // between looks at a job that is over and might be retried
const SUBMIT_TRIES = 3;
const MOST_REMEMBERED = 10_000;

/** An answer that isn't good, with the problem (RFC 9457) that came with it. */
export class KabarError extends Error {
  /** @param {number} status @param {{detail?: string, errors?: Array<{pointer: string, detail: string}>}} problem */
  constructor(status, problem) {
    super(problem.detail || `The server answered ${status}.`);
    this.name = "KabarError";
    this.status = status;
    this.problem = problem;
  }
}

/** A Kabar server, as one page sees it. */
export class Kabar {
  #base;
  #token;
  #link;

  /**
   * @param {Object} [options]
   * @param {string} [options.base] the server; the page's own origin if left out
   * @param {string|null} [options.token] a bearer token; without one the session's cookie is used
   * @param {(connection: Connection) => void} [options.onConnection] called at each change
   */
  constructor({ base = globalThis.location?.origin, token = null, onConnection = () => {} } = {}) {
    this.#base = new URL(base);
    this.#token = token;
    const url = new URL("/ws/jobs", this.#base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.#link = new Link(() => new WebSocket(url, [SUBPROTOCOL]), token, onConnection);
  }

  /** @returns {ConnectionState} how news comes at the moment */
  get connection() {
    return this.#link.state;
  }

  /**
   * Submit a job. The idempotency key makes it safe to try again after a broken connection, which this does.
   *
   * @param {string} kind
   * @param {Object} [params]
   * @param {Object} [options] `files` by parameter, `idempotencyKey`, `signal`, and any other field of a submission,
   *   such as `callbackUrl`, `tags`, `priority`, `runAt`
   * @returns {Promise<Object>} the receipt
   * @throws {KabarError} the submission was refused
   */
  async submit(kind, params = {}, { files = {}, idempotencyKey = newKey(), signal, ...envelope } = {}) {
    const job = JSON.stringify({ kind, params, ...envelope });
    const headers = idempotencyKey ? { "Idempotency-Key": idempotencyKey } : {};
    let body = job;
    if (Object.keys(files).length) {
      body = new FormData();
      body.append("job", job);
      for (const [name, file] of Object.entries(files)) body.append(name, file);
    } else {
      headers["Content-Type"] = "application/json";
    }
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#json("/api/jobs", { method: "POST", headers, body, signal });
      } catch (error) {
        const isPassing = !(error instanceof KabarError) || error.status === 503;
        if (signal?.aborted || !idempotencyKey || !isPassing || attempt >= SUBMIT_TRIES) throw error;
        await pause(backoff(attempt), signal);
      }
    }
  }

  /** @param {string} jobId @returns {Promise<Job>} the job as it is now */
  job(jobId) {
    return this.#json(`/api/jobs/${encodeURIComponent(jobId)}`);
  }

  /**
   * Follow one job.
   *
   * @param {string} jobId
   * @param {Object} [options]
   * @param {number} [options.after] the last sequence that you have; 0 for the whole log; left out: only what is new
   * @param {(event: KabarEvent) => void} [options.onEvent] each event and each newer progress
   * @param {(job: Job) => void} [options.onState] the job, whenever it is newer than before
   * @param {boolean} [options.follow] go on after the final event, because a retry opens the log again
   * @param {AbortSignal} [options.signal] ends the watch
   * @returns {{done: Promise<Job>, stop: () => void}} `done`: the job at its end; rejected where there is no such job
   */
  watch(jobId, { after, onEvent = () => {}, onState = () => {}, follow = false, signal } = {}) {
    const watch = new JobWatch(this.#get, this.#link, jobId, { after, onEvent, onState, follow });
    return begin(watch, this.#link, signal);
  }

  /**
   * Follow every job that you can see, also those that are submitted later.
   *
   * @param {Object} [options]
   * @param {string} [options.cursor] where you stand; left out: from now
   * @param {(event: KabarEvent) => void} [options.onEvent]
   * @param {() => void} [options.onReset] what came after the cursor can't be told: read again what you show
   * @param {AbortSignal} [options.signal]
   * @returns {{done: Promise<void>, stop: () => void}}
   */
  watchAll({ cursor, onEvent = () => {}, onReset = () => {}, signal } = {}) {
    return begin(new AllWatch(this.#get, this.#link, { cursor, onEvent, onReset }), this.#link, signal);
  }

  /** End all watches and the connection. */
  close() {
    this.#link.close();
  }

  #get = (path, { etag, signal } = {}) => {
    return this.#request(path, { headers: etag ? { "If-None-Match": etag } : {}, signal });
  };

  async #json(path, init = {}) {
    const answer = await this.#request(path, init);
    return answer.json();
  }

  async #request(path, { headers = {}, ...init }) {
    const all = { Accept: "application/json", ...headers };
    if (this.#token) {
      all.Authorization = `Bearer ${this.#token}`;
    } else if (init.method && init.method !== "GET") {
      all["X-CSRFToken"] = cookie("csrftoken");
    }
    const answer = await fetch(new URL(path, this.#base), { cache: "no-store", ...init, headers: all });
    if (answer.ok || answer.status === 304) return answer;
    throw new KabarError(answer.status, await answer.json().catch(() => ({})));
  }
}

// --- What is watched -------------------------------------------------------------------------------------------------

/** Start a watch, and hand its user the two handles of it. */
function begin(watch, link, signal) {
  const stop = () => watch.end();
  signal?.addEventListener("abort", stop, { once: true });
  if (signal?.aborted) watch.end();
  else link.add(watch);
  return { done: watch.done, stop };
}

/** What both watches share: an end, and polls while the socket is away. */
class Watch {
  #polls = null;

  constructor(get, link) {
    this.get = get;
    this.link = link;
    this.isOver = false;
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.done.catch(() => {}); // whoever awaits it hears of it; nobody has to
  }

  end(job) {
    if (this.isOver) return;
    this.isOver = true;
    this.stopPolling();
    this.link.remove(this);
    this.resolve(job);
  }

  fail(error) {
    this.reject(error);
    this.end();
  }

  startPolling() {
    if (this.#polls || this.isOver) return;
    this.#polls = new AbortController();
    this.#keepPolling(this.#polls.signal);
  }

  stopPolling() {
    this.#polls?.abort();
    this.#polls = null;
  }

  async #keepPolling(signal) {
    for (let failures = 0; !signal.aborted; ) {
      try {
        await pause(await this.poll(signal), signal);
        failures = 0;
        this.link.polled(true);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof KabarError && [401, 403, 404].includes(error.status)) {
          if (error.status === 401) this.link.refuse();
          return this.fail(error);
        }
        this.link.polled(false);
        await pause(backoff(++failures), signal).catch(() => {});
      }
    }
  }
}

class JobWatch extends Watch {
  #etag = null;
  #version = 0;

  constructor(get, link, jobId, options) {
    super(get, link);
    this.key = jobId;
    this.last = options.after;
    this.options = options;
  }

  subscription(others) {
    const known = [this, ...others].map((each) => each.last).filter((last) => last !== undefined);
    return { type: "subscribe", jobId: this.key, ...(known.length ? { after: Math.min(...known) } : {}) };
  }

  subscribed({ job }) {
    this.last ??= job.sequence;
    this.#show(job);
    if (job.done && this.last >= job.sequence && !this.options.follow) this.end(job);
  }

  take(event) {
    const job = event.data;
    if (job.jobId !== this.key || this.isOver) return;
    if (event.id === null ? job.version <= this.#version : event.sequence <= (this.last ?? 0)) return;
    if (event.id !== null) this.last = event.sequence;
    this.options.onEvent(event);
    this.#show(job);
    if (FINAL_EVENTS.has(event.type) && !this.options.follow) this.end(job);
  }

  /** Fail where there is no such job. */
  async check() {
    try {
      await this.get(`/api/jobs/${encodeURIComponent(this.key)}`);
    } catch (error) {
      if (error instanceof KabarError && error.status === 404) this.fail(error);
    }
  }

  async poll(signal) {
    // Without an If-None-Match a held answer would wait for the end and not for a change.
    const held = this.#etag ? `?wait=${HELD_SECONDS}` : "";
    const path = `/api/jobs/status/${encodeURIComponent(this.key)}${held}`;
    const answer = await this.get(path, { etag: this.#etag, signal });
    if (answer.status === 304) return POLL_PAUSE_MS;
    const job = await answer.json();
    await this.#catchUp(job, signal);
    this.#etag = answer.headers.get("ETag");
    this.subscribed({ job });
    return job.done ? FINISHED_PAUSE_MS : POLL_PAUSE_MS;
  }

  async #catchUp(job, signal) {
    this.last ??= job.sequence;
    while (this.last < job.sequence && !this.isOver) {
      const path = `/api/jobs/${encodeURIComponent(this.key)}/events?after=${this.last}`;
      const { events } = await (await this.get(path, { signal })).json();
      if (!events.length) break;
      for (const event of events) this.take(event);
    }
  }

  #show(job) {
    if (job.version <= this.#version) return;
    this.#version = job.version;
    this.options.onState(job);
  }
}

class AllWatch extends Watch {
  #seen = new Map(); // by job or batch: the last sequence and version; the longest unheard of are forgotten first

  constructor(get, link, options) {
    super(get, link);
    this.key = null;
    this.cursor = options.cursor;
    this.options = options;
  }

  subscription() {
    return { type: "subscribe", ...(this.cursor ? { cursor: this.cursor } : {}) };
  }

  subscribed({ cursor, recovered }) {
    this.cursor = cursor;
    if (recovered === false) this.options.onReset();
  }

  take(event, cursor) {
    if (this.isOver) return;
    if (cursor) this.cursor = cursor;
    const { jobId, batchId, version = 0 } = event.data; // the Batch of batch.completed has neither jobId nor version
    const subject = jobId ?? batchId;
    const seen = this.#seen.get(subject) ?? { sequence: 0, version: 0 };
    if (event.id === null ? version <= seen.version : event.sequence <= seen.sequence) return;
    this.#seen.delete(subject);
    this.#seen.set(subject, {
      sequence: event.id === null ? seen.sequence : event.sequence,
      version: Math.max(version, seen.version),
    });
    if (this.#seen.size > MOST_REMEMBERED) this.#seen.delete(this.#seen.keys().next().value);
    this.options.onEvent(event);
  }

  async poll(signal) {
    const query = this.cursor ? `?cursor=${encodeURIComponent(this.cursor)}&wait=${HELD_SECONDS}` : "";
    try {
      const { events, next } = await (await this.get(`/api/events${query}`, { signal })).json();
      for (const event of events) this.take(event);
      this.cursor = next;
      return events.length ? 0 : POLL_PAUSE_MS;
    } catch (error) {
      if (!(error instanceof KabarError) || error.status !== 410) throw error;
      this.cursor = null;
      this.options.onReset();
      return 0;
    }
  }
}

// --- How it comes ----------------------------------------------------------------------------------------------------

/** The one socket of a page, opened for the first watch; while it can't be had, the watches poll. */
class Link {
  #open;
  #token;
  #onConnection;
  #watches = new Map(); // by job id, null for all jobs: the watches that share a subscription
  #socket = null;
  #timer = null;
  #beat = null;
  #heardAt = 0;
  #failures = 0;
  #isClosed = false;

  constructor(open, token, onConnection) {
    this.#open = open;
    this.#token = token;
    this.#onConnection = onConnection;
    this.state = "idle";
    globalThis.addEventListener?.("online", () => this.#hurry());
  }

  add(watch) {
    const group = this.#watches.get(watch.key) ?? new Set();
    this.#watches.set(watch.key, group.add(watch));
    if (this.state === "live") this.#send(watch.subscription(group));
    else if (this.#isPolling()) watch.startPolling();
    if (!this.#socket && !this.#timer && !this.#isClosed) this.#connect();
  }

  remove(watch) {
    const group = this.#watches.get(watch.key);
    if (!group?.delete(watch) || group.size) return;
    this.#watches.delete(watch.key);
    if (this.state === "live") this.#send({ type: "unsubscribe", ...(watch.key ? { jobId: watch.key } : {}) });
    if (!this.#watches.size) this.#rest("idle");
  }

  close() {
    this.#isClosed = true;
    for (const watch of this.#all()) watch.end();
    this.#rest("closed");
  }

  /** The server doesn't know us: nothing is tried any more. */
  refuse() {
    this.#isClosed = true;
    this.#rest("closed");
  }

  /** A poll went well, or didn't. */
  polled(isGood) {
    if (this.state === "polling" || (this.state === "reconnecting" && isGood && this.#isPolling())) {
      this.#tell(isGood ? "polling" : "reconnecting");
    }
  }

  #isPolling() {
    return this.#failures >= FAILURES_BEFORE_POLLING;
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#isClosed) return;
    let socket;
    try {
      socket = this.#open();
    } catch {
      return this.#lost(null, 0);
    }
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#drop(socket), OPEN_MS);
    socket.onopen = () => {
      if (this.#token) this.#send({ type: "auth", token: this.#token });
      for (const [first, ...others] of this.#watches.values()) this.#send(first.subscription(others));
    };
    socket.onmessage = ({ data }) => this.#hear(socket, JSON.parse(data));
    socket.onclose = ({ code }) => this.#lost(socket, code);
  }

  #hear(socket, message) {
    if (socket !== this.#socket) return;
    this.#heardAt = Date.now();
    if (message.type !== "error" || message.code === "not_found") this.#live();
    switch (message.type) {
      case "subscribed":
        for (const watch of this.#group(message.jobId)) watch.subscribed(message);
        break;
      case "event":
        // Each watch takes what is its own: a job may be followed alone and among all.
        for (const watch of [...this.#group(message.event.data.jobId), ...this.#group()]) {
          watch.take(message.event, message.cursor);
        }
        break;
      case "error":
        if (message.code === "not_found") this.#findMissing();
    }
  }

  /** The server doesn't say which job it doesn't know, so each is asked for. */
  #findMissing() {
    for (const watch of this.#all()) watch.check?.();
  }

  #live() {
    if (this.state === "live") return;
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#failures = 0;
    for (const watch of this.#all()) watch.stopPolling();
    clearInterval(this.#beat);
    this.#beat = setInterval(() => {
      if (Date.now() - this.#heardAt > SILENT_MS) this.#drop(this.#socket);
      else this.#send({ type: "ping" });
    }, PING_MS);
    this.#tell("live");
  }

  #lost(socket, code) {
    if (socket !== this.#socket) return;
    this.#forgetSocket();
    if (this.#isClosed || !this.#watches.size) return;
    // A session that the socket refuses may still poll, as from another name of this host; polls say if not.
    this.#failures = code === NO_CREDENTIAL ? Math.max(this.#failures, FAILURES_BEFORE_POLLING) : this.#failures + 1;
    const wait = code === NO_CREDENTIAL ? LONGEST_PAUSE_MS : backoff(this.#failures);
    this.#timer = setTimeout(() => this.#connect(), wait);
    if (this.#isPolling()) {
      for (const watch of this.#all()) watch.startPolling();
      if (this.state !== "polling") this.#tell("reconnecting", Date.now() + wait);
    } else {
      this.#tell("reconnecting", Date.now() + wait);
    }
  }

  /** Let a socket go that doesn't answer; its close may never come. */
  #drop(socket) {
    if (!socket || socket !== this.#socket) return;
    socket.onclose = null;
    socket.close();
    this.#lost(socket, 0);
  }

  /** The network is back: don't wait for the next try. */
  #hurry() {
    if (!this.#socket && this.#timer && !this.#isClosed) this.#connect();
  }

  #rest(state) {
    const socket = this.#socket;
    this.#forgetSocket();
    this.#failures = 0;
    socket?.close(1000);
    this.#tell(state);
  }

  #forgetSocket() {
    if (this.#socket) this.#socket.onclose = null;
    this.#socket = null;
    clearTimeout(this.#timer);
    clearInterval(this.#beat);
    this.#timer = this.#beat = null;
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #group(key = null) {
    return [...(this.#watches.get(key) ?? [])];
  }

  #all() {
    return [...this.#watches.values()].flatMap((group) => [...group]);
  }

  #tell(state, retryAt = null) {
    const isSame = state === this.state && retryAt === null;
    this.state = state;
    if (!isSame) this.#onConnection({ state, retryAt });
  }
}

// --- Small things ----------------------------------------------------------------------------------------------------

/** A pause before the next try, doubled each time, anywhere in its upper half: crowds must not come back as one. */
function backoff(failures) {
  return Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/** Browsers make such keys on https and on this machine only; elsewhere a submission goes without. */
function newKey() {
  return globalThis.crypto?.randomUUID?.() ?? null;
}

function cookie(name) {
  const found = document.cookie.split("; ").find((each) => each.startsWith(`${name}=`));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}
