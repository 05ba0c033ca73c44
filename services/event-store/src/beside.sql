,
     t AS (INSERT INTO timers (timer_id, part, due_at, kind, stream_id, payload)
           SELECT unnest($25::uuid[]), $1, unnest($26::timestamptz[]), unnest($27::text[]), unnest($28::uuid[]),
                  unnest($29::bytea[])
             FROM h
           ON CONFLICT (timer_id) DO NOTHING),
     d AS (DELETE FROM timers USING h WHERE timer_id = ANY ($30::uuid[])),
     v AS (INSERT INTO shoppers (shopper_id, shop, data, created_at)
           SELECT unnest($31::text[]), unnest($32::text[]), unnest($33::bytea[]), unnest($34::timestamptz[])
             FROM h
           ON CONFLICT (shopper_id) DO NOTHING),
     p AS (INSERT INTO provider_reads AS known (order_id, shop, requests, requested_at)
           SELECT DISTINCT ON (u.order_id) u.order_id, u.shop, 1, clock_timestamp()
             FROM h, unnest($35::text[], $36::text[]) AS u(order_id, shop)
           ON CONFLICT (order_id) DO UPDATE
              SET requests = known.requests + 1,
                  requested_at = CASE WHEN known.requests > known.served THEN known.requested_at
                                      ELSE excluded.requested_at END,
                  -- Who asked first for what is not served yet.
                  asked_by = CASE WHEN known.requests > known.served THEN known.asked_by ELSE 'poll' END,
                  traceparent = CASE WHEN known.requests > known.served THEN known.traceparent END)
