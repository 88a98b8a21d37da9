-- Since when an account's address is known to be its owner's; null is not known. Nodes of the release before leave it as it is.
ALTER TABLE accounts ADD COLUMN email_verified_at bigint;

-- As before for whoever does not say, as the releases before.
CREATE OR REPLACE FUNCTION insert_account(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM accounts a WHERE a.id = decode(x ->> 'id', 'hex')) THEN
        PERFORM stop('moved');
    END IF;
    INSERT INTO accounts (id, email, name, password_hash, password_version, roles, status, status_reason, status_actor,
        status_at, status_until, status_rev, created_at, cut_rev, cut_except, version, email_verified_at)
        VALUES (decode(x ->> 'id', 'hex'), x ->> 'email', x ->> 'name', x ->> 'password_hash',
            (x ->> 'password_version')::bigint, ARRAY(SELECT jsonb_array_elements_text(x -> 'roles')), x ->> 'status',
            x ->> 'reason', x ->> 'actor', (x ->> 'at')::bigint, (x ->> 'until')::bigint, (x ->> 'rev')::bigint,
            (x ->> 'created_at')::bigint, (x ->> 'cut_rev')::bigint, decode(x ->> 'cut_except', 'hex'),
            (x ->> 'version')::bigint, (x ->> 'email_verified_at')::bigint)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM stop('email_taken');
    END IF;
END $$;

CREATE FUNCTION set_email(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
BEGIN
    IF NOT EXISTS (SELECT 1 FROM accounts a WHERE a.id = v_id) THEN
        RETURN 'missing';
    END IF;
    IF EXISTS (SELECT 1 FROM accounts a WHERE a.email = x ->> 'email' AND a.id <> v_id) THEN
        RETURN 'email_taken';
    END IF;
    UPDATE accounts a SET email = x ->> 'email', email_verified_at = (x ->> 'verified_at')::bigint,
        version = a.version + 1 WHERE a.id = v_id;
    RETURN NULL;
END $$;

-- As before for whoever sends no such step, as the releases before.
CREATE OR REPLACE FUNCTION plain_step_6(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN x ->> 'do' = 'set_email' THEN set_email(x)
        WHEN x ->> 'do' = 'unprove' THEN unprove(x)
        WHEN x ->> 'do' IN ('set_network', 'put_memory', 'draw') THEN set_risk(x, p_at)
        WHEN x ->> 'do' IN ('insert_link', 'use_link', 'sign_out_link', 'remove_link', 'insert_origin') THEN set_link(x)
        ELSE plain_step_5(x, p_at) END;
END $$;

-- As before, and of a tombstone that goes, too.
CREATE OR REPLACE FUNCTION set_status(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
BEGIN
    UPDATE accounts a SET version = a.version + 1, status = x ->> 'status', status_reason = x ->> 'reason',
        status_actor = x ->> 'actor', status_at = (x ->> 'at')::bigint, status_until = (x ->> 'until')::bigint,
        status_rev = (x ->> 'rev')::bigint
        WHERE a.id = v_id;
    IF NOT FOUND THEN
        PERFORM stop('missing');
    END IF;
    IF x ->> 'status' = 'deleted' THEN
        UPDATE accounts a SET email = NULL, email_verified_at = NULL, name = NULL, password_hash = NULL, roles = '{}' WHERE a.id = v_id;
        -- Two statements, so that each has its index.
        UPDATE sessions s SET ip = NULL, net = NULL WHERE s.account = v_id AND s.ended_rev IS NULL AND s.ip IS NOT NULL;
        UPDATE sessions s SET ip = NULL, net = NULL WHERE s.account = v_id AND s.ended_rev IS NOT NULL AND s.ip IS NOT NULL;
    END IF;
END $$;

-- As before for whoever leaves the body as it is, as the releases before: an address in it is forgotten once the mail is sent.
CREATE OR REPLACE FUNCTION set_outgoing(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    v_seq bigint := (x ->> 'seq')::bigint;
    v_from bytea := decode(x ->> 'from', 'hex');
BEGIN
    CASE x ->> 'do'
    WHEN 'insert_message' THEN
        INSERT INTO messages (id, kind, client, body, created_at, next_at, give_up_at, tries, state, settled_at, last_error,
            version)
            VALUES (v_id, x ->> 'kind', decode(x ->> 'client', 'hex'), x ->> 'body', (x ->> 'created_at')::bigint,
                (x ->> 'next_at')::bigint, (x ->> 'give_up_at')::bigint, (x ->> 'tries')::bigint, x ->> 'state',
                (x ->> 'settled_at')::bigint, x ->> 'last_error', (x ->> 'version')::bigint)
            ON CONFLICT DO NOTHING;
    WHEN 'update_message' THEN
        UPDATE messages m SET next_at = (x ->> 'next_at')::bigint, give_up_at = (x ->> 'give_up_at')::bigint,
            tries = (x ->> 'tries')::bigint, state = x ->> 'state', settled_at = (x ->> 'settled_at')::bigint,
            last_error = x ->> 'last_error', body = x ->> 'body', version = m.version + 1
            WHERE m.id = v_id AND m.version = (x ->> 'version')::bigint;
        IF NOT FOUND AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = v_id) THEN
            RETURN 'missing';
        END IF;
    WHEN 'step_notice' THEN
        IF x ->> 'to' IS NULL THEN
            DELETE FROM notices n WHERE n.seq = v_seq AND n.cursor IS NOT DISTINCT FROM v_from;
        ELSE
            UPDATE notices n SET cursor = decode(x ->> 'to', 'hex')
                WHERE n.seq = v_seq AND n.cursor IS NOT DISTINCT FROM v_from;
        END IF;
    END CASE;
    RETURN CASE WHEN NOT FOUND THEN 'moved' END;
END $$;
