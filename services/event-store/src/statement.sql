-- One batch of appends, decided by whoever holds the part's head row ($1). A request wins if its command is new and every
-- stream it touched still has the version it saw; a request in neither result set lost a race.
--
-- The caller guarantees within one batch: a command id once; a stream that is written in one request only.
WITH req   AS MATERIALIZED (SELECT * FROM unnest($2::int[], $3::uuid[], $4::bytea[], $5::bytea[], $6::timestamptz[])
                                     AS r(r, command_id, fingerprint, outcome, at)),
     touch AS MATERIALIZED (SELECT * FROM unnest($7::int[], $8::uuid[], $9::bigint[], $10::bigint[])
                                     AS s(r, stream_id, expected, n)),
     dup   AS MATERIALIZED (SELECT command_id, fingerprint, outcome, position
                              FROM command_log WHERE command_id = ANY ($3::uuid[])),
     cur   AS MATERIALIZED (SELECT stream_id, part, version FROM streams WHERE stream_id = ANY ($8::uuid[])),
     lost  AS MATERIALIZED (SELECT t.r FROM touch t LEFT JOIN cur s ON s.stream_id = t.stream_id
                             WHERE coalesce(s.version, 0) <> t.expected OR s.part <> $1),
     -- Without a head there is no position to give, and no lock that was taken.
     win   AS MATERIALIZED (SELECT * FROM req
                             WHERE command_id NOT IN (SELECT command_id FROM dup) AND r NOT IN (SELECT r FROM lost)
                               AND EXISTS (SELECT FROM log_head WHERE part = $1)),
     up    AS (INSERT INTO streams (stream_id, part, version)
               SELECT stream_id, $1, expected + n FROM touch WHERE n > 0 AND r IN (SELECT r FROM win)
               ON CONFLICT (stream_id) DO UPDATE SET version = excluded.version),
     e     AS MATERIALIZED (SELECT u.*, w.at, row_number() OVER (ORDER BY u.o) AS rn
                              FROM unnest($11::int[], $12::uuid[], $13::bigint[], $14::uuid[], $15::text[], $16::text[],
                                          $17::text[], $18::text[], $19::smallint[], $20::bytea[], $21::bytea[])
                                   WITH ORDINALITY AS u(r, stream_id, version, event_id, shop, aggregate_type,
                                                        aggregate_id, event_type, schema_version, payload, metadata, o)
                              JOIN win w ON w.r = u.r),
     h     AS (UPDATE log_head SET position = position + (SELECT count(*) FROM e) WHERE part = $1
               RETURNING position - (SELECT count(*) FROM e) AS base),
     i     AS (INSERT INTO events (part, position, stream_id, version, event_id, shop, aggregate_type, aggregate_id,
                                   event_type, schema_version, payload, metadata, recorded_at)
               SELECT $1, h.base + e.rn, e.stream_id, e.version, e.event_id, e.shop, e.aggregate_type, e.aggregate_id,
                      e.event_type, e.schema_version, e.payload, e.metadata, e.at
                 FROM e, h),
     top   AS (SELECT e.r, max(h.base + e.rn) AS position FROM e, h GROUP BY e.r),
     t     AS (INSERT INTO timers (timer_id, part, due_at, kind, stream_id, payload)
               SELECT u.timer_id, $1, u.due_at, u.kind, u.stream_id, u.payload
                 FROM unnest($22::int[], $23::uuid[], $24::timestamptz[], $25::text[], $26::uuid[], $27::bytea[])
                      AS u(r, timer_id, due_at, kind, stream_id, payload)
                WHERE u.r IN (SELECT r FROM win)
               ON CONFLICT (timer_id) DO NOTHING),
     d     AS (DELETE FROM timers USING unnest($28::int[], $29::uuid[]) AS u(r, timer_id)
                WHERE timers.timer_id = u.timer_id AND u.r IN (SELECT r FROM win)),
     v     AS (INSERT INTO shoppers (shopper_id, shop, data, created_at)
               SELECT u.shopper_id, u.shop, u.data, w.at
                 FROM unnest($30::int[], $31::text[], $32::text[], $33::bytea[]) AS u(r, shopper_id, shop, data)
                 JOIN win w ON w.r = u.r
               ON CONFLICT (shopper_id) DO NOTHING),
     p     AS (INSERT INTO provider_reads AS known (order_id, shop, requests, requested_at)
               SELECT DISTINCT ON (u.order_id) u.order_id, u.shop, 1, clock_timestamp()
                 FROM unnest($34::int[], $35::text[], $36::text[]) AS u(r, order_id, shop)
                WHERE u.r IN (SELECT r FROM win)
               ON CONFLICT (order_id) DO UPDATE
                  SET requests = known.requests + 1,
                      requested_at = CASE WHEN known.requests > known.served THEN known.requested_at
                                          ELSE excluded.requested_at END,
                      -- Who asked first for what is not served yet.
                      asked_by = CASE WHEN known.requests > known.served THEN known.asked_by ELSE 'poll' END,
                      traceparent = CASE WHEN known.requests > known.served THEN known.traceparent END),
     c     AS (INSERT INTO command_log (command_id, fingerprint, outcome, part, position, at)
               SELECT w.command_id, w.fingerprint, w.outcome, $1, coalesce(top.position, h.base), w.at
                 FROM win w CROSS JOIN h LEFT JOIN top ON top.r = w.r
               RETURNING command_id, fingerprint, outcome, position)
SELECT command_id, NULL::bytea AS fingerprint, NULL::bytea AS outcome, position, true AS stored FROM c
UNION ALL
SELECT command_id, fingerprint, outcome, position, false FROM dup
