-- The event log: the only truth. Positions are gap-free per part; versions are gap-free per stream.

CREATE TABLE events (
    part           int         NOT NULL,
    position       bigint      NOT NULL,
    stream_id      uuid        NOT NULL,
    version        bigint      NOT NULL,
    event_id       uuid        NOT NULL,
    shop           text        NOT NULL,
    aggregate_type text        NOT NULL,
    aggregate_id   text        NOT NULL,
    event_type     text        NOT NULL,
    schema_version smallint    NOT NULL,
    -- The exact bytes that were decided: to be hashed and forwarded as they are.
    payload        bytea       NOT NULL,
    metadata       bytea       NOT NULL,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (part, position)
) PARTITION BY LIST (part);

CREATE TABLE events_p0 PARTITION OF events FOR VALUES IN (0);
CREATE UNIQUE INDEX events_p0_stream ON events_p0 (stream_id, version);
CREATE UNIQUE INDEX events_p0_event_id ON events_p0 (event_id);

-- One row a part. Its lock makes the holder the only writer of the part, so commit order is position order.
CREATE TABLE log_head (
    part     int    PRIMARY KEY,
    position bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO log_head VALUES (0, 0);

CREATE TABLE streams (
    stream_id uuid   PRIMARY KEY,
    part      int    NOT NULL,
    version   bigint NOT NULL
) WITH (fillfactor = 85);

-- Which part new streams of a bucket go to. An order and its payments share a bucket.
CREATE TABLE buckets (
    bucket smallint PRIMARY KEY CHECK (bucket BETWEEN 0 AND 255),
    part   int      NOT NULL
);
INSERT INTO buckets SELECT bucket, 0 FROM generate_series(0, 255) AS bucket;

-- What was decided for which command; a repeat is answered from here. Kept for thirty days or more.
CREATE TABLE command_log (
    command_id  uuid        PRIMARY KEY,
    fingerprint bytea       NOT NULL,
    outcome     bytea       NOT NULL,
    part        int         NOT NULL,
    position    bigint      NOT NULL,
    at          timestamptz NOT NULL
);

CREATE TABLE timers (
    timer_id  uuid        PRIMARY KEY,
    part      int         NOT NULL,
    due_at    timestamptz NOT NULL,
    kind      text        NOT NULL,
    stream_id uuid        NOT NULL,
    payload   bytea       NOT NULL,
    attempt   int         NOT NULL DEFAULT 0
);
CREATE INDEX timers_due ON timers (part, due_at);

-- Wall time plus this is the time. Moved in drills only.
CREATE TABLE clock (
    id        int    PRIMARY KEY CHECK (id = 1),
    offset_ms bigint NOT NULL
);
INSERT INTO clock VALUES (1, 0);
