#!/usr/bin/env python3
"""How does a checkout service pay its first order, with nats-py and nothing of ours?

Creates an order and starts iDEAL by request and reply, follows the redirect as the shopper's browser would, presses
"success" on the test bank's page, and waits for `payment_safe` on the live subject. Prints one JSON line per step.

Commands carry an `Idempotency-Key`, so a repeat after a lost answer finds what the first one did. Nothing here can make
an order safe: only the provider's report can.

Exit codes: 0 safe, 1 refused, 2 usage, 4 timed out, 69 NATS or the bank cannot be reached.
"""

import argparse
import asyncio
import http.cookiejar
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from html.parser import HTMLParser

import nats
import nats.errors

WAIT_S = 10  # how long a command may wait for its effect before it answers (`Prefer: wait=N`, at most 25)
REQUEST_TIMEOUT_S = 15  # longer than WAIT_S, or answers would be given up that are on their way
ATTEMPTS = 3  # of one command with one key: a lost answer, then a service that restarts
PAGE_TIMEOUT_S = 10
PAGE_BYTES_MAX = 1024 * 1024  # a bank's page is small; whatever is larger is not one

START = time.monotonic()


class Failure(Exception):
    """Ends the script: a message for people and an exit code."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def step(name, **fields):
    print(json.dumps({"step": name, "at_ms": round((time.monotonic() - START) * 1000), **fields}), flush=True)


# Asking ---------------------------------------------------------------------------------------------------------------


async def ask(client, subject, body, key=None):
    """Sends a command (with its idempotency key) or a question, again with the same key when no answer comes."""
    headers = {"Idempotency-Key": key, "Prefer": f"wait={WAIT_S}"} if key else None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            reply = await client.request(subject, json.dumps(body).encode(), timeout=REQUEST_TIMEOUT_S, headers=headers)
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError) as error:
            print(f"{subject}: {type(error).__name__}, attempt {attempt} of {ATTEMPTS}", file=sys.stderr)
            # Nobody listening is answered at once: leave a service that restarts a moment.
            await asyncio.sleep(1)
            continue
        status = (reply.headers or {}).get("Nats-Service-Error-Code")
        answer = json.loads(reply.data or b"{}")
        if status:
            raise Failure(f"{subject} refused with {status}: {json.dumps(answer)}", 1)
        return answer
    hint = "; repeat with the same Idempotency-Key to learn what became of it" if key else ""
    raise Failure(f"{subject}: no answer{hint}", 4)


async def start_payment(client, shop, order_id):
    """Starts iDEAL and returns the answer that says where to send the shopper."""
    body, key = {"order_id": order_id, "method": "ideal"}, str(uuid.uuid4())
    for _ in range(ATTEMPTS):
        answer = await ask(client, f"kassa.cmd.{shop}.start_payment", body, key)
        action = answer["next_action"]
        # "wait": the provider has not answered yet. The same key asks again, it does not start again.
        if action["type"] != "wait":
            return answer
    raise Failure(f"payment of {order_id} still says wait; ask kassa.qry.{shop}.get_order where it stands", 4)


# The shopper's browser ------------------------------------------------------------------------------------------------


class Forms(HTMLParser):
    """Collects the forms of a page: action, method, hidden and other fields, and buttons that carry a value."""

    def __init__(self):
        super().__init__()
        self.forms = []
        self.form = None

    def handle_starttag(self, tag, attributes):
        has = dict(attributes)
        if tag == "form":
            method = has.get("method", "get").lower()
            self.form = {"action": has.get("action", ""), "method": method, "fields": {}, "buttons": []}
            self.forms.append(self.form)
        elif self.form is not None and has.get("name"):
            kind = has.get("type", "submit" if tag == "button" else "text").lower()
            pair = (has["name"], has.get("value", ""))
            if tag == "button" or (tag == "input" and kind == "submit"):
                self.form["buttons"].append(pair)
            elif tag == "input" and (kind not in ("radio", "checkbox") or pair == ("result", "success")):
                self.form["fields"][pair[0]] = pair[1]

    def handle_endtag(self, tag):
        if tag == "form":
            self.form = None


def place(url):
    """Scheme, host and path of an address."""
    return urllib.parse.urlsplit(url)[:3]


class StopAtShop(urllib.request.HTTPRedirectHandler):
    """Follows redirects until one leads back to the shop, whose page need not exist."""

    def __init__(self, return_url):
        self.return_url = return_url
        self.returned_to = None

    def redirect_request(self, request, body, code, message, headers, url):
        # The provider may add parameters of its own.
        if place(url) == place(self.return_url):
            self.returned_to = url
            return None  # urllib then raises the redirect as an HTTPError
        return super().redirect_request(request, body, code, message, headers, url)


class Browser:
    """Just enough of one: cookies, redirects, forms."""

    def __init__(self, return_url):
        self.stop = StopAtShop(return_url)
        # The test bank is near: no proxy of the environment in between.
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()), self.stop
        )

    def open(self, url, form=None):
        """The page and its address, or (None, the shop's address) once the way led back to the shop."""
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise Failure(f"not an address for a browser: {url}", 1)
        body = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            with self.opener.open(url, body, timeout=PAGE_TIMEOUT_S) as answer:
                page = answer.read(PAGE_BYTES_MAX + 1)
                if len(page) > PAGE_BYTES_MAX:
                    raise Failure(f"{answer.url} is larger than {PAGE_BYTES_MAX} bytes", 1)
                return page.decode("utf-8", "replace"), answer.url
        except urllib.error.HTTPError as error:
            error.close()
            if self.stop.returned_to:
                return None, self.stop.returned_to
            raise Failure(f"{url} answered {error.code}", 1) from error
        except OSError as error:
            raise Failure(f"{url} cannot be reached: {error}", 69) from error


def press_success(page, url):
    """Address and fields of the form on the test bank's page, as if "success" had been pressed."""
    forms = Forms()
    forms.feed(page)
    for form in forms.forms:
        fields = dict(form["fields"])
        if ("result", "success") in form["buttons"]:
            fields["result"] = "success"
        if fields.get("result") == "success" and "trxid" in fields and form["method"] == "post":
            return urllib.parse.urljoin(url, form["action"]), fields
    raise Failure(f"{url} is not the test bank's page: no form with trxid and a result of success", 1)


def pay_at_the_bank(url, return_url):
    """From the redirect to the way back; returns the address at which the shopper arrives."""
    browser = Browser(return_url)
    page, at = browser.open(url)
    if page is None:
        raise Failure(f"{url} led back to the shop without a bank's page", 1)
    target, fields = press_success(page, at)
    step("bank_page", url=at)
    _, arrived = browser.open(target, fields)
    return arrived


# The payment ----------------------------------------------------------------------------------------------------------


async def pay(client, args):
    shop, key = args.shop, str(uuid.uuid4())
    return_url = f"{args.return_url}?key={key}"
    created = await ask(client, f"kassa.cmd.{shop}.create_order", {
        "order_reference": args.order_reference or f"example-{key[:8]}",
        "description": "A first payment",
        "amount": {"value": args.amount_minor, "currency": "EUR"},
        "country": "NL",
        "language": "nl",
        "shopper": {"email": "shopper@shop.example"},
        "return_url": return_url,
        "metadata": {"example": "first_payment", **({"sim_scenario": args.scenario} if args.scenario else {})},
    }, key)
    order_id = created["order_id"]
    step("order_created", order_id=order_id, status=created["status"], position=created["position"])

    # Before the payment starts, so that nothing can come before we listen.
    live = await client.subscribe(f"kassa.live.{shop}.order.{order_id}.payment_safe")
    await client.flush()

    started = await start_payment(client, shop, order_id)
    action = started["next_action"]
    step("payment_started", payment_id=started["payment_id"], status=started["status"], next_action=action["type"])
    if action["type"] != "redirect":
        raise Failure(f"expected a redirect, got {json.dumps(action)}", 1)

    # On a thread: this connection has to answer the server's pings meanwhile.
    arrived = await asyncio.to_thread(pay_at_the_bank, action["url"], return_url)
    # The way back decides nothing: anybody can type this address.
    step("returned", url=arrived)

    try:
        event = json.loads((await live.next_msg(timeout=args.timeout)).data)
    except nats.errors.TimeoutError as error:
        # Live subjects are at most once; after a broken connection the question is how to know.
        order = await ask(client, f"kassa.qry.{shop}.get_order", {"order_id": order_id})
        message = f"no payment_safe of {order_id} within {args.timeout} s; it stands at {json.dumps(order)}"
        raise Failure(message, 4) from error
    if event["data"]["order_id"] != order_id:
        raise Failure(f"event {event['id']} is not about {order_id}", 1)
    step("payment_safe", order_id=order_id, payment_id=started["payment_id"], event_id=event["id"],
         epoch=event["data"]["epoch"], amount=event["data"]["amount"], sequence=event["sequence"])


def inbox_prefix(user):
    """Each user of the bus hears answers under a prefix of its own, so that nobody hears another's."""
    return f"_INBOX_{user}" if user else "_INBOX"


async def nats_error(error):
    print(f"nats: {type(error).__name__}: {error}", file=sys.stderr)


async def main(args):
    try:
        # No reconnecting: a script that lost its connection had better say so. The attempts are those of connecting.
        client = await nats.connect(
            args.url, user=args.user, password=args.password, inbox_prefix=inbox_prefix(args.user),
            name="first payment", error_cb=nats_error,
            allow_reconnect=False, max_reconnect_attempts=1, connect_timeout=5,
        )
    except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
        print(f"cannot connect to nats: {type(error).__name__}: {error}", file=sys.stderr)
        return 69
    try:
        await pay(client, args)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.code
    finally:
        await client.close()
    return 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", default="nats://127.0.0.1:4222", help="where NATS is")
    parser.add_argument("--user", help="the checkout user")
    parser.add_argument("--password")
    parser.add_argument("--shop", default="demo-shop", help="token of the shop")
    parser.add_argument("--amount-minor", type=int, default=4995, help="in cents")
    parser.add_argument("--order-reference", help="the shop's own name for the order; made up if not given")
    parser.add_argument("--scenario", help="of the simulator, where one is played with, such as any/safe_then_reversed")
    parser.add_argument("--return-url", default="https://shop.example/thanks", help="where the shopper comes back to")
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for payment_safe")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
