"""Does the same body get the same answer by HTTP and by NATS? Every verb, and refusals too, once ids and times are taken out.

Needs curl, nats-py and a running demo: --http, --key, --nats, --user, --password, --shop as it prints them.
"""

import argparse
import asyncio
import json
import re
import urllib.parse
import urllib.request
import uuid

import nats

# What differs between two orders that are alike: ids, positions, times, the keys of CM and of the test bank.
SCRUB = [
    (re.compile(r"(ord|pay|shp)_[a-z0-9]+"), r"\1_ID"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "TIME"),
    (re.compile(r"\b0-\d+\b"), "POSITION"),
    (re.compile(r"\b\d{20}\b"), "SEQUENCE"),
    (re.compile(r"(HTTP|NATS)-[0-9a-f]+"), "REFERENCE"),
    (re.compile(r"\b[A-Z0-9]{32}\b"), "KEY"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "TRACE"),
    (re.compile(r"00-TRACE-[0-9a-f]{16}-0\d"), "TRACEPARENT"),
    (re.compile(r"\bpid\d+t\b"), "PID"),
    (re.compile(r"\b\d{10,}\b"), "NUMBER"),
]


def scrubbed(answer):
    status, body = answer
    # Where it was asked is a path by HTTP and not told on NATS; a page's continuation names the row it ends with.
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in ("instance", "next")}
    text = json.dumps(body, sort_keys=True)
    for pattern, word in SCRUB:
        text = pattern.sub(word, text)
    return status, text


class Http:
    name = "HTTP"

    def __init__(self, base, key):
        self.base, self.key = base.rstrip("/"), key

    async def ask(self, verb, body, idempotency_key=None):
        body = dict(body)
        order = body.get("order_id", "")
        method, path = {
            "create_order": ("POST", "/v1/orders"),
            "start_payment": ("POST", f"/v1/orders/{order}/payments"),
            "cancel_order": ("POST", f"/v1/orders/{order}/cancel"),
            "get_order": ("GET", f"/v1/orders/{order}" if order else "/v1/orders"),
            "get_order_events": ("GET", f"/v1/orders/{order}/events"),
            "explain_order": ("GET", f"/v1/orders/{order}/why"),
            "list_orders": ("GET", "/v1/orders"),
            "list_methods": ("GET", "/v1/methods"),
        }[verb]
        if order and f"/{order}" in path:
            body.pop("order_id", None)
        call = ["curl", "--silent", "--show-error", "--max-time", "40", "--write-out", "\n%{http_code}"]
        call += ["--request", method, "--header", f"Authorization: Bearer {self.key}"]
        if idempotency_key:
            call += ["--header", f"Idempotency-Key: {idempotency_key}"]
        if method == "POST":
            call += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        elif body:
            path += "?" + urllib.parse.urlencode(body)
        done = await asyncio.create_subprocess_exec(*call, self.base + path, stdout=asyncio.subprocess.PIPE)
        answer, status = (await done.communicate())[0].decode().rsplit("\n", 1)
        return 200 if status.startswith("2") else int(status), json.loads(answer)


class Nats:
    name = "NATS"

    def __init__(self, client, shop):
        self.client, self.shop = client, shop

    async def ask(self, verb, body, idempotency_key=None):
        group = "cmd" if verb in ("create_order", "start_payment", "cancel_order") else "qry"
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        answer = await self.client.request(
            f"kassa.{group}.{self.shop}.{verb}", json.dumps(body).encode(), timeout=40, headers=headers
        )
        code = (answer.headers or {}).get("Nats-Service-Error-Code", "200")
        return int(code), json.loads(answer.data)


def order(way, **changes):
    body = {
        "order_reference": f"{way.name}-{uuid.uuid4().hex}",
        "description": "Dog food, 12 kg",
        "amount": {"value": 4995, "currency": "EUR"},
        "country": "NL",
        "language": "nl",
        "shopper": {"email": "shopper@example.org"},
        "return_url": "https://shop.example/return",
    }
    body.update(changes)
    return body


async def story(way):
    """Every verb, told what is right and what is wrong."""
    told = []

    async def ask(what, verb, body, key=None):
        answer = await way.ask(verb, body, key)
        told.append((what, *scrubbed(answer)))
        return answer[1]

    def key():
        return str(uuid.uuid4())

    body, once = order(way), key()
    made = await ask("create", "create_order", body, once)
    await ask("create again", "create_order", body, once)
    await ask("same key, other body", "create_order", order(way), once)
    await ask("same reference", "create_order", body, key())
    await ask("no key", "create_order", order(way))
    await ask("amount 0", "create_order", order(way, amount={"value": 0, "currency": "EUR"}), key())
    await ask("currency", "create_order", order(way, amount={"value": 1, "currency": "BTC"}), key())
    await ask("unknown field", "create_order", order(way, pirce=1), key())
    await ask("return url", "create_order", order(way, return_url="https://evil.example/"), key())
    this = {"order_id": made["order_id"]}
    await ask("get", "get_order", this)
    await ask("get by reference", "get_order", {"order_reference": body["order_reference"]})
    await ask("why", "explain_order", this)
    await ask("methods", "list_methods", {"country": "NL", "currency": "EUR", "amount": 4995})
    await ask("method unknown", "start_payment", {**this, "method": "barter"}, key())
    await ask("start", "start_payment", {**this, "method": "ideal"}, key())
    await ask("start a second", "start_payment", {**this, "method": "ideal"}, key())
    await ask("events", "get_order_events", this)
    await ask("unknown order", "get_order", {"order_id": "ord_nothing"})
    other = await ask("another", "create_order", order(way), key())
    await ask("cancel", "cancel_order", {"order_id": other["order_id"], "reason": "changed my mind"}, key())
    await ask("cancel again", "cancel_order", {"order_id": other["order_id"]}, key())
    await ask("start a canceled one", "start_payment", {"order_id": other["order_id"], "method": "ideal"}, key())
    await ask("why canceled", "explain_order", {"order_id": other["order_id"]})
    await ask("a page of one", "list_orders", {"status": "canceled", "limit": 1})
    await ask("a page of none", "list_orders", {"limit": 0})
    return told


async def discovered(client):
    """Every verb names its schemas, and they are there."""
    count = 0
    for service in ("kassa-commands", "kassa-queries"):
        info = json.loads((await client.request(f"$SRV.INFO.{service}", b"", timeout=5)).data)
        for endpoint in info["endpoints"]:
            for name in ("request_schema", "response_schema"):
                if url := (endpoint.get("metadata") or {}).get(name):
                    schema = json.load(await asyncio.to_thread(urllib.request.urlopen, url))
                    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema", url
                    count += 1
    assert count >= 14, f"only {count} schemas were named"
    print(f"{count} schemas are where discovery says")


async def main():
    parser = argparse.ArgumentParser()
    for name in ("http", "key", "nats", "user", "password", "shop"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    client = await nats.connect(
        args.nats, user=args.user, password=args.password, inbox_prefix=f"_INBOX_{args.user}".encode()
    )
    await discovered(client)
    by_http = await story(Http(args.http, args.key))
    by_nats = await story(Nats(client, args.shop))
    await client.close()
    different = [(a, b) for a, b in zip(by_http, by_nats, strict=True) if a != b]
    for a, b in different:
        print(f"{a[0]}\n  HTTP {a[1]} {a[2]}\n  NATS {b[1]} {b[2]}")
    if different:
        raise SystemExit(f"{len(different)} of {len(by_http)} answers differ")
    assert {status for _, status, _ in by_http} >= {200, 400, 404, 409, 422}, "the story has lost its refusals"
    print(f"{len(by_http)} answers by HTTP and by NATS are the same")


asyncio.run(main())
