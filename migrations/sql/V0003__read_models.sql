-- Tables made for reading. All of them can be emptied and built again from the log.

CREATE TABLE projections (
    name     text   NOT NULL,
    part     int    NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (name, part)
);

CREATE TABLE read_orders (
    order_id        text        PRIMARY KEY,
    shop            text        NOT NULL,
    order_reference text        NOT NULL,
    status          text        NOT NULL,
    safe            text        NOT NULL,
    -- What get_order answers.
    document        jsonb       NOT NULL,
    -- The aggregates as far as they are folded.
    state           jsonb       NOT NULL,
    part            int         NOT NULL,
    position        bigint      NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    UNIQUE (shop, order_reference)
);

CREATE TABLE read_shipping (
    order_id        text        NOT NULL,
    epoch           int         NOT NULL,
    shop            text        NOT NULL,
    order_reference text        NOT NULL,
    amount_minor    bigint      NOT NULL,
    currency        text        NOT NULL,
    safe_at         timestamptz NOT NULL,
    event_id        uuid        NOT NULL,
    position        bigint      NOT NULL,
    PRIMARY KEY (order_id, epoch)
);
