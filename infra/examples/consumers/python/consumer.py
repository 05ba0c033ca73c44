"""Releases each safe order once, holds it when safety is lost, parks what cannot be handled. `pip install nats-py`"""
import asyncio, json, os, sqlite3, nats
from nats.js.api import AckPolicy, ConsumerConfig

USER, DURABLE, TRIES = os.environ["NATS_USER"], os.environ.get("DURABLE", "ship-python"), int(os.environ.get("TRIES", 5))
TABLE = "CREATE TABLE IF NOT EXISTS work (event_id TEXT PRIMARY KEY, order_id TEXT, epoch INTEGER, verb TEXT)"
INSERT = """INSERT INTO work SELECT ?1, ?2, ?3, ?4 WHERE ?4 = 'hold' OR NOT EXISTS (SELECT 1 FROM work
            WHERE order_id = ?2 AND (epoch > ?3 OR epoch = ?3 AND verb = 'hold')) ON CONFLICT (event_id) DO NOTHING"""
WORK = {"kassa.order.payment_safe.v1": "release", "kassa.order.payment_safety_lost.v1": "hold"}
FILTERS = [f"kassa.evt.*.*.order.*.{event}" for event in ("payment_safe", "payment_safety_lost")]

def handle(db, event):
    verb, order, epoch = WORK[event["type"]], event["data"]["order_id"], event["data"]["epoch"]
    with db: new = db.execute(INSERT, (event["id"], order, epoch, verb)).rowcount  # one transaction: put your work into it
    return f"{verb} {order} {epoch}" if new else None  # a repeat, or a hold or later release came first

async def park(js, message, error):
    meta, (_, _, _, shop, _, order, _) = message.metadata, message.subject.split(".")
    about = {"Consumer": DURABLE, "Error": type(error).__name__, "Deliveries": meta.num_delivered, "Stream": meta.stream,
             "Sequence": meta.sequence.stream, "Subject": message.subject, "Time": int(meta.timestamp.timestamp())}
    headers = {f"Kassa-{name}": str(value) for name, value in about.items()}
    await js.publish(f"kassa.dlq.{DURABLE}.{shop}.order.{order}", message.data, headers=headers)
    await message.term()  # only now that it is kept for a person

async def main(db, url, password):
    db.execute(TABLE)
    js = (await nats.connect(url, user=USER, password=password, inbox_prefix=f"_INBOX_{USER}")).jetstream()
    await js.add_consumer("KASSA_EVENTS", ConsumerConfig(durable_name=DURABLE, ack_policy=AckPolicy.EXPLICIT,
                                                         ack_wait=30, max_ack_pending=64, filter_subjects=FILTERS))
    pull = await js.pull_subscribe_bind(DURABLE, "KASSA_EVENTS")
    while True:
        try: [message] = await pull.fetch(1, timeout=30)
        except nats.errors.TimeoutError: continue  # nothing to do
        try:
            if line := handle(db, json.loads(message.data)): print(line, flush=True)
            await message.ack()
        except Exception as error:  # a repeat may help, until it is too often; what is not known is never guessed at
            tries = message.metadata.num_delivered
            await (park(js, message, error) if tries >= TRIES else message.nak(delay=min(2**tries, 60)))
asyncio.run(main(sqlite3.connect(os.environ["INBOX"]), os.environ["NATS_URL"], os.environ["NATS_PASSWORD"]))
