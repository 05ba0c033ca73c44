// Releases each safe order once, holds it when safety is lost, parks what cannot be handled. `npm install`, node 20 or newer.
import { appendFileSync, existsSync, readFileSync, truncateSync } from "node:fs";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, headers, nanos } from "@nats-io/transport-node";

const { NATS_URL, NATS_USER, NATS_PASSWORD, INBOX, DURABLE = "ship-javascript", TRIES = "5" } = process.env;
const WORK = { "kassa.order.payment_safe.v1": "release", "kassa.order.payment_safety_lost.v1": "hold" };
const FILTERS = ["kassa.evt.*.*.order.*.payment_safe", "kassa.evt.*.*.order.*.payment_safety_lost"];

// Inbox and work are one line of one file, written and flushed at once; what a crash cut off is cut away.
const whole = existsSync(INBOX) ? readFileSync(INBOX, "utf8").replace(/[^\n]*$/, "") : "";
if (existsSync(INBOX)) truncateSync(INBOX, Buffer.byteLength(whole));
const seen = new Set(), next = new Map(); // ids of events; by order, the epoch from which a release is news
const note = ({ event_id, order_id, epoch, verb }) =>
  seen.add(event_id) && next.set(order_id, Math.max(verb === "hold" ? epoch + 1 : epoch, next.get(order_id) ?? 0));
whole.split("\n").filter(Boolean).forEach((line) => note(JSON.parse(line)));
function handle({ id, type, data: { order_id, epoch } }) {
  const one = { event_id: id, order_id, epoch, verb: WORK[type] };
  if (!one.verb) throw new Error("what is not known is never guessed at");
  if (seen.has(id) || (one.verb === "release" && epoch < next.get(order_id))) return null; // a repeat, or its hold or a later release came first
  appendFileSync(INBOX, JSON.stringify(one) + "\n", { flush: true });
  note(one);
  return `${one.verb} ${order_id} ${epoch}`;
}
async function park(m, error) {
  const [, , , shop, , order] = m.subject.split("."), h = headers();
  const about = { Consumer: DURABLE, Error: error.code ?? error.name, Deliveries: m.info.deliveryCount, Stream: m.info.stream,
    Sequence: m.info.streamSequence, Subject: m.subject, Time: Math.floor(m.info.timestampNanos / 1e9) };
  for (const [name, value] of Object.entries(about)) h.set(`Kassa-${name}`, String(value));
  await jetstream(nc).publish(`kassa.dlq.${DURABLE}.${shop}.order.${order}`, m.data, { headers: h });
  m.term(); // only now that it is kept for a person
}
const nc = await connect({ servers: NATS_URL, user: NATS_USER, pass: NATS_PASSWORD, inboxPrefix: `_INBOX_${NATS_USER}` });
const wanted = { ack_policy: AckPolicy.Explicit, ack_wait: nanos(30_000), max_ack_pending: 64, filter_subjects: FILTERS };
await (await jetstreamManager(nc)).consumers.add("KASSA_EVENTS", { durable_name: DURABLE, ...wanted });
for await (const m of await (await jetstream(nc).consumers.get("KASSA_EVENTS", DURABLE)).consume({ max_messages: 1 })) {
  try { const line = handle(m.json()); if (line) console.log(line); m.ack(); } catch (error) { // a repeat may help, not for ever
    await (m.info.deliveryCount >= Number(TRIES) ? park(m, error) : m.nak(Math.min(2 ** m.info.deliveryCount, 60) * 1000));
  }
}
