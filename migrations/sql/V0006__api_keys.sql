-- Who may ask over HTTP: a shop's API keys. A key has 256 random bits, so its plain SHA-256 cannot be guessed back, and
-- slow hashes, which protect what people choose, would only make each request slow.

CREATE TABLE api_keys (
    -- Stands in the key itself, and is no secret.
    key_id      text        PRIMARY KEY CHECK (key_id ~ '^[a-z0-9]{12}$'),
    shop        text        NOT NULL,
    -- Of the shop when the key was made: a key for play money opens nothing once the shop is live.
    mode        text        NOT NULL CHECK (mode IN ('sim', 'test', 'live')),
    name        text        NOT NULL,
    secret_hash bytea       NOT NULL CHECK (length(secret_hash) = 32),
    scopes      text[]      NOT NULL CHECK (cardinality(scopes) > 0),
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz
);
CREATE INDEX api_keys_shop ON api_keys (shop, created_at);

-- For pages of orders, newest first.
CREATE INDEX read_orders_newest ON read_orders (shop, created_at DESC, order_id DESC);

-- Services read keys; making and revoking them is an operator's, with the owner's login.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'kassa_app') THEN
        GRANT SELECT ON api_keys TO kassa_app;
    END IF;
END
$$;
