-- Lists of orders by status: among a million that are paid, the few that are not were found by looking at all of them. What
-- is paid needs no index of its own: nearly all are, so the newest are among the newest of all.
CREATE INDEX read_orders_all_not_paid ON read_orders_all (shop, status, created_at, order_id) WHERE status <> 'paid';
