#!/usr/bin/env python3
"""How does a shipment service in Python release each order once, and hold it once, with nats-py and nothing of ours?

A durable pull consumer reads `order.payment_safe` and `order.payment_safety_lost`; an inbox in SQLite knows what was seen.
Per message: check it; record it and the release or hold in one transaction; commit; only then acknowledge. The bus delivers
at least once, and everything again after it was wiped and refilled, so "once" is the inbox's doing. It promises no order
either: a release whose hold, or a later release, came first is recorded and not released. A later epoch of an order lifts its
hold; it is not a second parcel.

The release is the row in `shipments`, the hold that in `holds`. The line on standard output is printed after the commit: like
every effect outside the transaction it can be lost by a crash in between (printing before the commit would repeat it instead).

Exit codes: 0 stopped or --count reached, 2 usage, 4 --timeout came first, 69 NATS cannot be reached, 78 the durable has
other settings.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import sqlite3
import sys
import uuid

import nats
import nats.errors
import nats.js.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

# What is to be done with the order of an event. Two filters on one durable keep their order.
TOLD = {"payment_safe": "release", "payment_safety_lost": "hold"}
FILTERS = [f"kassa.evt.*.*.order.*.{event}" for event in TOLD]
SUBJECT = re.compile(
    r"kassa\.evt\.(0|[1-9][0-9]*)\.([a-z0-9-]{1,32})\.order\.(ord_[0-9a-hjkmnp-tv-z]{1,40})\.(payment_safe|payment_safety_lost)"
)

ACK_WAIT_S = 30
ACK_PENDING_MAX = 64  # over all instances: what a database that comes back can be asked for at once
CONNECT_TIMEOUT_S = 10
PULL_BATCH = 16  # few, because those behind a slow one count against ACK_WAIT_S
PULL_TIMEOUT_S = 2  # a pull that the server forgot is replaced after this, and a stop waits for it
PAUSE_MAX_S = 2  # between attempts while the bus is away
AGAIN_MAX_S = 60  # between deliveries of an event that could not be recorded; without end, a paid order is not forgotten
EVENT_BYTES_MAX = 64 * 1024  # by the contract

# What decides which orders are seen, and when again.
COMPARED = (
    "filter_subject", "filter_subjects", "deliver_policy", "ack_policy", "ack_wait", "max_ack_pending", "max_deliver",
    "headers_only",
)

TABLES = """
CREATE TABLE IF NOT EXISTS shipment_inbox (
    event_id TEXT PRIMARY KEY, order_id TEXT NOT NULL, epoch INTEGER NOT NULL, subject TEXT NOT NULL,
    sequence INTEGER NOT NULL, received_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE IF NOT EXISTS shipments (
    order_id TEXT NOT NULL, epoch INTEGER NOT NULL, event_id TEXT NOT NULL, amount_minor INTEGER NOT NULL,
    currency TEXT NOT NULL, released_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (order_id, epoch));
CREATE TABLE IF NOT EXISTS holds (
    order_id TEXT NOT NULL, epoch INTEGER NOT NULL, event_id TEXT NOT NULL,
    held_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (order_id, epoch));
"""


class Refused(Exception):
    """The message is not, beyond doubt, a permission to ship or one that is taken back."""


class DurableDiffers(Exception):
    """A durable of this name has settings with which orders would be missed."""


def log(message, **fields):
    print(json.dumps({"msg": message, **fields}), file=sys.stderr, flush=True)


def require(condition, what):
    if not condition:
        raise Refused(what)


def whole(value, least):
    # bool is an int in Python, and true is not an amount.
    return type(value) is int and least <= value < 2**53


def judge(subject, payload):
    """The release or hold that this message tells of, as a dict; raises Refused. The body is authoritative, not the headers."""
    require(len(payload) <= EVENT_BYTES_MAX, "larger than 64 KiB")
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Refused(f"not json: {type(error).__name__}") from error
    require(isinstance(event, dict), "not an object")
    require(event.get("specversion") == "1.0", "not CloudEvents 1.0")
    tokens = SUBJECT.fullmatch(subject)
    require(tokens, "came under a subject of another form")
    part, shop, order_id, what = tokens.groups()
    expected = f"kassa.order.{what}.v1"
    require(event.get("type") == expected, f"type is not {expected}: upgrade this reader if it is a later version")
    require(event.get("source") == f"/kassa/{part}/{shop}", "source is not that of its subject")
    require(event.get("subject") == f"order/{order_id}", "order is not that of its subject")
    require(event.get("partitionkey") == order_id, "partition key is not that of its subject")
    data = event.get("data")
    require(isinstance(data, dict) and data.get("order_id") == order_id, "data is about another order")
    require(whole(data.get("epoch"), 1), "epoch is not a number from 1")
    if what == "payment_safe":
        require(isinstance(data.get("evidence"), dict), "no evidence")
    amount = data.get("amount")
    require(isinstance(amount, dict) and whole(amount.get("value"), -(2**53) + 1), "amount is not in whole minor units")
    currency = amount.get("currency")
    require(isinstance(currency, str) and re.fullmatch("[A-Z]{3}", currency), "currency is not a code of ISO 4217")
    try:
        event_id = str(uuid.UUID(event.get("id")))
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused("id is not a uuid") from error
    reference = data.get("order_reference")
    require(isinstance(reference, str), "no order reference")
    return {
        "told": TOLD[what],
        "order_id": order_id,
        "order_reference": reference,
        "shop": shop,
        "epoch": data["epoch"],
        "amount": {"value": amount["value"], "currency": currency},
        "event_id": event_id,
    }


class Inbox:
    """What was seen, released and held, in one SQLite file. Several processes may share it."""

    def __init__(self, path):
        # No hidden transactions: BEGIN and COMMIT are where they are written. Wait for another process at most 10 s.
        self.db = sqlite3.connect(path, timeout=10, isolation_level=None)
        # What was acknowledged must survive a power cut.
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.executescript(TABLES)

    def do(self, told, subject, sequence):
        """True for what is new, False for a repeat or what was overtaken; after it returns, it is on disk."""
        event, order, amount = told["event_id"], (told["order_id"], told["epoch"]), told["amount"]
        self.db.execute("BEGIN IMMEDIATE")
        try:
            new = self.db.execute(
                "INSERT OR IGNORE INTO shipment_inbox (event_id, order_id, epoch, subject, sequence)"
                " VALUES (?, ?, ?, ?, ?)",
                (event, *order, subject, sequence),
            ).rowcount
            if new and told["told"] == "hold":
                new = self.db.execute(
                    "INSERT OR IGNORE INTO holds (order_id, epoch, event_id) VALUES (?, ?, ?)", (*order, event)
                ).rowcount
            elif new:
                # Nothing for a release whose hold, or a later release, was delivered first.
                new = self.db.execute(
                    "INSERT OR IGNORE INTO shipments (order_id, epoch, event_id, amount_minor, currency)"
                    " SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 FROM holds WHERE order_id = ?1 AND epoch >= ?2)"
                    " AND NOT EXISTS (SELECT 1 FROM shipments WHERE order_id = ?1 AND epoch > ?2)",
                    (*order, event, amount["value"], amount["currency"]),
                ).rowcount
            # A real service puts its job for the picker here, or stops it, in the same transaction.
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise
        return new == 1


async def subscribe(js, stream, durable):
    """Finds the durable or makes it: a wiped stream takes its consumers along. It then delivers everything again."""
    wanted = ConsumerConfig(
        durable_name=durable,
        name=durable,
        description="orders to ship, each once, and to hold",
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=ACK_PENDING_MAX,
        max_deliver=-1,
        filter_subjects=FILTERS,
    )
    try:
        found = (await js.consumer_info(stream, durable)).config
    except nats.js.errors.NotFoundError:
        await js.add_consumer(stream, config=wanted)
        log("made the durable, all events of the stream are delivered", durable=durable, stream=stream)
    else:
        for name in COMPARED:
            has, want = getattr(found, name), getattr(wanted, name)
            if name == "filter_subjects":
                # The server tells them in any order.
                has, want = sorted(has or []), sorted(want)
            if (has or None) != (want or None):
                raise DurableDiffers(f"durable {durable!r} has {name} {has!r}, wanted {want!r}: take another name, or "
                                     "delete it, which repeats deliveries and loses none")
    return await js.pull_subscribe_bind(durable=durable, stream=stream)


async def settle(inbox, message):
    """Brings one message to its end; True when it released or held an order."""
    sequence, delivered = message.metadata.sequence.stream, message.metadata.num_delivered
    try:
        told = judge(message.subject, message.data)
    except Refused as why:
        log("message refused, not acted on and not delivered again: a person must look", why=str(why), sequence=sequence)
        await message.term()
        return False
    try:
        new = inbox.do(told, message.subject, sequence)
    except sqlite3.Error as error:
        log(f"no {told['told']} yet, its event comes again", order_id=told["order_id"], error=str(error))
        await message.nak(delay=min(2 ** min(delivered - 1, 10), AGAIN_MAX_S))
        return False
    if new:
        print(json.dumps({**told, "sequence": sequence}), flush=True)
    else:
        log(f"nothing to {told['told']}: it was before, or its hold or a later release came first",
            order_id=told["order_id"], sequence=sequence)
    # Lost acknowledgements cost a repeat, which the inbox knows.
    await message.ack()
    return new


async def consume(args, inbox, js, stop):
    """Releases and holds orders until `stop` is set or --count is reached; what is under way is finished first."""
    done, failures, pull = 0, 0, None
    while not stop.is_set() and not (args.count and done >= args.count):
        try:
            if pull is None:
                pull = await subscribe(js, args.stream, args.durable)
            size = min(PULL_BATCH, args.count - done) if args.count else PULL_BATCH
            # Never cancelled: what it had taken would be nowhere until ACK_WAIT_S is over.
            batch = await pull.fetch(size, timeout=PULL_TIMEOUT_S)
            try:
                while batch and not stop.is_set():
                    done += await settle(inbox, batch[0])
                    del batch[0]
            finally:
                # What was pulled and not settled goes back at once, for whoever pulls next.
                for message in batch:
                    await message.nak()
            failures = 0
        except nats.errors.TimeoutError:
            # Nothing to ship, or the server went away and came back without our durable: look for it again.
            await close(pull)
            pull = None
        except (nats.errors.Error, nats.js.errors.Error, ConnectionError) as error:
            log("not reading permissions to ship, trying again", error=f"{type(error).__name__}: {error}")
            await close(pull)
            pull = None
            # By chance within the last half, so that instances that lost a server together do not come back together.
            await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), PAUSE_MAX_S) * random.uniform(0.5, 1))
            failures += 1
    return done


async def close(pull):
    """Gives up the inbox subject of a pull; it may be gone already."""
    if pull is not None:
        try:
            await pull.unsubscribe()
        except (nats.errors.Error, ConnectionError):
            pass


def inbox_prefix(user):
    """Each user of the bus hears answers under a prefix of its own, so that nobody hears another's."""
    return f"_INBOX_{user}" if user else "_INBOX"


async def nats_error(error):
    log("nats", error=f"{type(error).__name__}: {error}")


async def main(args):
    inbox = Inbox(args.inbox)
    try:
        # Once connected it reconnects without end; at the start, a wrong address or password had better show.
        connecting = nats.connect(
            args.url, user=args.user, password=args.password, inbox_prefix=inbox_prefix(args.user),
            name=f"shipment {args.durable}", error_cb=nats_error,
            allow_reconnect=True, max_reconnect_attempts=-1, reconnect_time_wait=0.5, connect_timeout=5,
        )
        client = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
    except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
        log("cannot connect to nats", error=f"{type(error).__name__}: {error}")
        return 69
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    timed_out = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, stop.set)
    if args.timeout is not None:
        loop.call_later(args.timeout, lambda: (timed_out.set(), stop.set()))
    try:
        done = await consume(args, inbox, client.jetstream(), stop)
    except DurableDiffers as error:
        log(str(error))
        return 78
    finally:
        # Lets the last acknowledgements leave. A bus that is away must not keep us: a lost one costs a repeat.
        try:
            await client.flush(timeout=5)
        except (nats.errors.Error, ConnectionError):
            pass
        await client.close()
    if timed_out.is_set() and (not args.count or done < args.count):
        log("timed out", timeout_s=args.timeout, done=done)
        return 4
    return 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", default="nats://127.0.0.1:4222", help="where NATS is")
    parser.add_argument("--user", help="the shipment user")
    parser.add_argument("--password")
    parser.add_argument("--stream", default="KASSA_EVENTS", help="stream of a part; KASSA_EVENTS_1 and so on for others")
    parser.add_argument("--durable", default="shipment-example", help="the same for all instances of one service")
    parser.add_argument("--inbox", default="shipment-inbox.sqlite3", help="SQLite file; one per service, kept for good")
    parser.add_argument("--count", type=int, default=0, help="stop after so many releases and holds; 0: never")
    parser.add_argument("--timeout", type=float, help="stop after so many seconds, with exit code 4")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
