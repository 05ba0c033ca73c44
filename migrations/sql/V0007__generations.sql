-- A read model is rebuilt beside the one that serves: its tables hold rows of several generations, and what is read is a view
-- of the one that serves. So a rebuild needs no right to make or rename tables (the services' role has none), a swap is one
-- row, and whoever reads sees all of the old or all of the new.

ALTER TABLE projections
    -- The one that serves.
    ADD COLUMN generation       int NOT NULL DEFAULT 1,
    -- The highest that was ever begun: a number is never used again.
    ADD COLUMN generations_made int NOT NULL DEFAULT 1;
-- The views need a row to know which generation serves.
INSERT INTO projections (name, part, position) VALUES ('checkout', 0, 0), ('shipping', 0, 0) ON CONFLICT DO NOTHING;

-- A generation that is being built, at most one a projection. Who builds it keeps touching its row: a row that was not
-- touched for some time is of a process that is gone.
CREATE TABLE projection_builds (
    name       text        NOT NULL,
    part       int         NOT NULL,
    generation int         NOT NULL,
    position   bigint      NOT NULL,
    started_at timestamptz NOT NULL,
    touched_at timestamptz NOT NULL,
    PRIMARY KEY (name, part)
);

ALTER TABLE read_orders RENAME TO read_orders_all;
ALTER TABLE read_orders_all
    ADD COLUMN generation int NOT NULL DEFAULT 1,
    DROP CONSTRAINT read_orders_pkey,
    DROP CONSTRAINT read_orders_shop_order_reference_key;
ALTER TABLE read_orders_all
    ALTER COLUMN generation DROP DEFAULT,
    ADD CONSTRAINT read_orders_all_pkey PRIMARY KEY (generation, order_id),
    ADD CONSTRAINT read_orders_all_reference UNIQUE (generation, shop, order_reference);
-- For lists, newest first.
CREATE INDEX read_orders_all_created ON read_orders_all (shop, created_at, order_id);
-- A later step that adds a column to read_orders_all makes this view again.
CREATE VIEW read_orders AS
    SELECT r.*
      FROM read_orders_all AS r
      JOIN projections AS p ON p.name = 'checkout' AND p.part = r.part AND p.generation = r.generation;

ALTER TABLE read_shipping RENAME TO read_shipping_all;
ALTER TABLE read_shipping_all
    ADD COLUMN generation int NOT NULL DEFAULT 1,
    ADD COLUMN part       int NOT NULL DEFAULT 0,
    DROP CONSTRAINT read_shipping_pkey;
ALTER TABLE read_shipping_all
    ALTER COLUMN generation DROP DEFAULT,
    ALTER COLUMN part DROP DEFAULT,
    ADD CONSTRAINT read_shipping_all_pkey PRIMARY KEY (generation, order_id, epoch);
CREATE VIEW read_shipping AS
    SELECT r.*
      FROM read_shipping_all AS r
      JOIN projections AS p ON p.name = 'shipping' AND p.part = r.part AND p.generation = r.generation;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'kassa_app') THEN
        RETURN;
    END IF;
    -- Rights on the tables themselves went with their names.
    GRANT SELECT ON read_orders, read_shipping TO kassa_app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON projection_builds TO kassa_app;
END
$$;
