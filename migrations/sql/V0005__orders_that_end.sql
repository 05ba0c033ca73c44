-- What was released may be taken back, and people ask when a report was last read.

ALTER TABLE read_shipping
    -- Since when the goods are to be held, by which event; NULL while the release holds.
    ADD COLUMN lost_at       timestamptz,
    ADD COLUMN lost_event_id uuid,
    ADD COLUMN lost_position bigint;

-- When the newest report that was served began to be read, by the store's clock.
ALTER TABLE provider_reads ADD COLUMN last_read_at timestamptz;
