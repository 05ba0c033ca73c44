-- An order's row is written anew with each batch of its events. With room on its page the new version stays there, and the
-- indexes, none of whose columns change, need not be told.

ALTER TABLE read_orders_all SET (fillfactor = 60);
ALTER TABLE provider_reads SET (fillfactor = 60);
ALTER TABLE notifications SET (fillfactor = 80);
