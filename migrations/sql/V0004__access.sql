-- Who may do what, and how the log looks to programs that know postgres-es.

CREATE SCHEMA postgres_es;
CREATE VIEW postgres_es.events AS
    SELECT aggregate_type,
           aggregate_id,
           version                              AS sequence,
           event_type,
           schema_version::text                 AS event_version,
           convert_from(payload, 'UTF8')::json  AS payload,
           convert_from(metadata, 'UTF8')::json AS metadata
      FROM public.events;

-- The services' role: it can add to the log and read it, and nothing can make it change what was written.
DO $$
BEGIN
    BEGIN
        CREATE ROLE kassa_app NOLOGIN;
    EXCEPTION
        -- Roles belong to the server: another database may have made it, just now or long ago.
        WHEN duplicate_object OR unique_violation THEN NULL;
        WHEN insufficient_privilege THEN
            -- Managed servers refuse new roles, or an administrator has made it before. Without it, the services work with
            -- the login they have.
            RAISE NOTICE 'the role kassa_app was not made: %', SQLERRM;
    END;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'kassa_app') THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA public, postgres_es TO kassa_app;
    GRANT SELECT ON ALL TABLES IN SCHEMA public, postgres_es TO kassa_app;
    GRANT INSERT ON events, streams, command_log, timers, provider_reads, shoppers, notifications, work_marks,
        projections, read_orders, read_shipping TO kassa_app;
    GRANT UPDATE ON log_head, streams, timers, provider_reads, notifications, work_marks, projections,
        read_orders, read_shipping TO kassa_app;
    GRANT DELETE ON timers, shoppers, notifications, provider_reads, read_orders, read_shipping, projections
        TO kassa_app;
END
$$;

-- So that who migrates can act as the role: the services step down to it.
DO $$
BEGIN
    EXECUTE format('GRANT kassa_app TO %I', current_user);
EXCEPTION
    WHEN insufficient_privilege OR undefined_object THEN
        RAISE NOTICE 'kassa_app was not granted to %: %', current_user, SQLERRM;
    WHEN OTHERS THEN
        -- Two databases that grant one membership at once meet in the server's catalogue; one of them is enough.
        RAISE NOTICE 'kassa_app was granted to % by another: %', current_user, SQLERRM;
END
$$;
