-- What our workers keep beside the log: whose report to read, what was hinted at, how far a worker came.

-- At most one read of an order under way (the lease), and one waiting: a request counts, and a read serves all requests
-- that were counted when it began.
CREATE TABLE provider_reads (
    order_id     text        PRIMARY KEY,
    shop         text        NOT NULL,
    requests     bigint      NOT NULL DEFAULT 0,
    served       bigint      NOT NULL DEFAULT 0,
    requested_at timestamptz NOT NULL,
    lease_until  timestamptz,
    read_no      bigint      NOT NULL DEFAULT 0,
    -- When the rate allows the next read, less the burst: a storm of notifications costs CM one read a second.
    rate_at      timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE INDEX provider_reads_waiting ON provider_reads (requested_at) WHERE requests > served;

-- The vault: the only place where personal data is. Erasing a person is deleting a row.
CREATE TABLE shoppers (
    shopper_id text        PRIMARY KEY,
    shop       text        NOT NULL,
    data       bytea       NOT NULL,
    created_at timestamptz NOT NULL
);

-- CM's hints, one row a reference.
CREATE TABLE notifications (
    shop      text        NOT NULL,
    reference text        NOT NULL,
    state     text        NOT NULL CHECK (state IN ('known', 'parked')),
    first_at  timestamptz NOT NULL,
    last_at   timestamptz NOT NULL,
    count     bigint      NOT NULL,
    PRIMARY KEY (shop, reference)
);
CREATE INDEX notifications_parked ON notifications (first_at) WHERE state = 'parked';

-- The position up to which a worker with effects outside has done its work: a refilled stream is not worked again.
CREATE TABLE work_marks (
    worker   text   NOT NULL,
    part     int    NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (worker, part)
);
