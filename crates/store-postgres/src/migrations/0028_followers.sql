-- Who follows the trail of audit records (domain::follow), and the last place that they were told of.
CREATE TABLE followers (
    name  text   PRIMARY KEY,
    place bigint NOT NULL
);

-- Webhooks (domain::webhook); their secrets are sealed under the master key.
CREATE TABLE webhooks (
    id           bytea   PRIMARY KEY CHECK (octet_length(id) = 16),
    url          text    NOT NULL,
    description  text,
    events       text[]  NOT NULL,
    enabled      boolean NOT NULL,
    disabled_why text,
    secret       bytea   NOT NULL,
    old_secret   bytea,
    old_until    bigint,
    created_at   bigint  NOT NULL,
    version      bigint  NOT NULL
);

-- A cursor that moves, or a webhook that is made, changed or removed: the conflict otherwise.
CREATE FUNCTION set_follower(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_name text := x ->> 'name';
    v_from bigint := (x ->> 'from')::bigint;
    v_to bigint := (x ->> 'to')::bigint;
    v_id bytea := decode(x ->> 'id', 'hex');
BEGIN
    CASE x ->> 'do'
    WHEN 'step_follower' THEN
        IF v_from IS NULL AND v_to IS NULL THEN
            RETURN CASE WHEN EXISTS (SELECT 1 FROM followers f WHERE f.name = v_name) THEN 'moved' END;
        ELSIF v_from IS NULL THEN
            INSERT INTO followers (name, place) VALUES (v_name, v_to) ON CONFLICT DO NOTHING;
        ELSIF v_to IS NULL THEN
            DELETE FROM followers f WHERE f.name = v_name AND f.place = v_from;
        ELSE
            UPDATE followers f SET place = v_to WHERE f.name = v_name AND f.place = v_from;
        END IF;
    WHEN 'insert_webhook' THEN
        INSERT INTO webhooks (id, url, description, events, enabled, disabled_why, secret, old_secret, old_until, created_at,
            version)
            VALUES (v_id, x ->> 'url', x ->> 'description', ARRAY(SELECT jsonb_array_elements_text(x -> 'events')),
                (x ->> 'enabled')::boolean, x ->> 'disabled_why', decode(x ->> 'secret', 'hex'),
                decode(x ->> 'old_secret', 'hex'), (x ->> 'old_until')::bigint, (x ->> 'created_at')::bigint,
                (x ->> 'version')::bigint)
            ON CONFLICT DO NOTHING;
    WHEN 'update_webhook' THEN
        UPDATE webhooks w SET url = x ->> 'url', description = x ->> 'description',
            events = ARRAY(SELECT jsonb_array_elements_text(x -> 'events')), enabled = (x ->> 'enabled')::boolean,
            disabled_why = x ->> 'disabled_why', secret = decode(x ->> 'secret', 'hex'),
            old_secret = decode(x ->> 'old_secret', 'hex'), old_until = (x ->> 'old_until')::bigint, version = w.version + 1
            WHERE w.id = v_id AND w.version = (x ->> 'version')::bigint;
        IF NOT FOUND AND NOT EXISTS (SELECT 1 FROM webhooks w WHERE w.id = v_id) THEN
            RETURN 'missing';
        END IF;
    WHEN 'remove_webhook' THEN
        DELETE FROM webhooks w WHERE w.id = v_id;
        RETURN CASE WHEN NOT FOUND THEN 'missing' END;
    END CASE;
    RETURN CASE WHEN NOT FOUND THEN 'moved' END;
END $$;

-- As before, for whoever names none of these; and no release before does.
CREATE OR REPLACE FUNCTION plain_step_5(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN x ->> 'do' IN ('insert_message', 'update_message', 'step_notice') THEN set_outgoing(x)
        WHEN x ->> 'do' IN ('step_follower', 'insert_webhook', 'update_webhook', 'remove_webhook') THEN set_follower(x)
        ELSE plain_step_4(x, p_at) END;
END $$;
