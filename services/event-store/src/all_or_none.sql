-- A batch of appends that all win, as almost all do: in one pass, at the cost of a plain insert. It asks first whether a
-- command is known already or a stream has another version than was seen; if so it does nothing at all and gives no row,
-- and `statement.sql` decides one by one. Run by whoever holds the part's head row ($1).
--
-- unnest() in the select list makes its rows as they are needed; in FROM, each array would be laid out in full before.
WITH clear AS MATERIALIZED (
         SELECT NOT EXISTS (SELECT FROM command_log WHERE command_id = ANY ($3::uuid[]))
                -- Streams that are begun here.
            AND NOT EXISTS (SELECT FROM streams WHERE stream_id = ANY ($8::uuid[]))
                -- Streams that were there, each at the version that was seen.
            AND (SELECT count(*) FROM unnest($10::uuid[], $11::bigint[]) AS t(stream_id, expected)
                                 JOIN streams s ON s.stream_id = t.stream_id
                  WHERE s.version = t.expected AND s.part = $1) = cardinality($10::uuid[])
                -- Streams that were not there, and are not begun here either.
            AND NOT EXISTS (SELECT FROM streams WHERE stream_id = ANY ($13::uuid[])) AS clear),
     h AS (UPDATE log_head SET position = position + $2::bigint
            WHERE part = $1 AND (SELECT clear FROM clear)
           RETURNING position - $2::bigint AS base),
     c AS (INSERT INTO command_log (command_id, fingerprint, outcome, part, position, at)
           SELECT unnest($3::uuid[]), unnest($4::bytea[]), unnest($5::bytea[]), $1, h.base + unnest($6::bigint[]),
                  unnest($7::timestamptz[])
             FROM h),
     b AS (INSERT INTO streams (stream_id, part, version)
           SELECT unnest($8::uuid[]), $1, unnest($9::bigint[]) FROM h),
     m AS (UPDATE streams SET version = t.reached
             FROM h, unnest($10::uuid[], $11::bigint[], $12::bigint[]) AS t(stream_id, expected, reached)
            WHERE streams.stream_id = t.stream_id AND t.reached > t.expected),
     i AS (INSERT INTO events (part, position, stream_id, version, event_id, shop, aggregate_type, aggregate_id,
                               event_type, schema_version, payload, metadata, recorded_at)
           SELECT $1, h.base + generate_series(1, $2::bigint), unnest($14::uuid[]), unnest($15::bigint[]),
                  unnest($16::uuid[]), unnest($17::text[]), unnest($18::text[]), unnest($19::text[]), unnest($20::text[]),
                  unnest($21::smallint[]), unnest($22::bytea[]), unnest($23::bytea[]), unnest($24::timestamptz[])
             FROM h)
     -- and beside them
SELECT base FROM h
