-- By which methods a session's user proved who they are (RFC 8176), separated by spaces; NULL is a password.
ALTER TABLE sessions ADD COLUMN amr text;

-- Both as before for whoever names no methods, as the releases before: a password.
CREATE OR REPLACE FUNCTION plain_step_4(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea;
BEGIN
    CASE x ->> 'do'
    WHEN 'insert_ticket', 'update_ticket', 'use_ticket' THEN
        RETURN set_ticket(x);
    WHEN 'put_consent', 'withdraw_consent' THEN
        RETURN set_consent(x, p_at);
    WHEN 'set_auth_time' THEN
        UPDATE sessions s SET auth_time = (x ->> 'at')::bigint, amr = x ->> 'amr' WHERE s.id = decode(x ->> 'id', 'hex');
        RETURN CASE WHEN NOT FOUND THEN 'missing' END;
    WHEN 'insert_client' THEN
        INSERT INTO clients (id, name, kind, secret, disabled, created_at, cut_rev, cut_except, old_secret,
            old_secret_until, profile, access_ttl, version)
            VALUES (decode(x ->> 'id', 'hex'), x ->> 'name', x ->> 'kind', decode(x ->> 'secret', 'hex'),
                (x ->> 'disabled')::boolean, (x ->> 'created_at')::bigint, (x ->> 'cut_rev')::bigint,
                decode(x ->> 'cut_except', 'hex'), decode(x ->> 'old_secret', 'hex'),
                (x ->> 'old_secret_until')::bigint, x ->> 'profile', (x ->> 'access_ttl')::bigint,
                (x ->> 'version')::bigint)
            ON CONFLICT DO NOTHING;
        RETURN CASE WHEN NOT FOUND THEN 'moved' END;
    WHEN 'update_client' THEN
        v_id := decode(x ->> 'id', 'hex');
        UPDATE clients c SET name = x ->> 'name', kind = x ->> 'kind', secret = decode(x ->> 'secret', 'hex'),
            created_at = (x ->> 'created_at')::bigint, old_secret = decode(x ->> 'old_secret', 'hex'),
            old_secret_until = (x ->> 'old_secret_until')::bigint, profile = x ->> 'profile',
            access_ttl = (x ->> 'access_ttl')::bigint, version = c.version + 1
            WHERE c.id = v_id AND c.version = (x ->> 'version')::bigint;
        RETURN CASE WHEN FOUND THEN NULL WHEN EXISTS (SELECT 1 FROM clients c WHERE c.id = v_id) THEN 'moved'
            ELSE 'missing' END;
    ELSE
        RETURN plain_step(x);
    END CASE;
END $$;

CREATE OR REPLACE FUNCTION insert_session_4(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s sessions;
    m meta;
BEGIN
    INSERT INTO sessions (id, account, kind, device_name, agent, ip, net, created_at, auth_time, last_seen_at,
        absolute_expires_at, born, epoch, cookie, ended_rev, ended_reason, ended_at, client, amr)
        VALUES (decode(x ->> 'id', 'hex'), decode(x ->> 'account', 'hex'), x ->> 'kind', x ->> 'device_name', x ->> 'agent',
            x ->> 'ip', (x ->> 'net')::inet, (x ->> 'created_at')::bigint, (x ->> 'auth_time')::bigint,
            (x ->> 'last_seen_at')::bigint, (x ->> 'absolute_expires_at')::bigint, (x ->> 'born')::bigint,
            (x ->> 'epoch')::bigint, decode(x ->> 'cookie', 'hex'), (x ->> 'ended_rev')::bigint, x ->> 'ended_reason',
            (x ->> 'ended_at')::bigint, decode(x ->> 'client', 'hex'), x ->> 'amr')
        ON CONFLICT DO NOTHING RETURNING * INTO s;
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    SELECT t.* INTO m FROM meta t;
    IF NOT EXISTS (SELECT 1 FROM accounts a WHERE a.id = s.account) THEN
        PERFORM stop('missing');
    END IF;
    IF m.standing > 0 AND killed(s) THEN
        PERFORM stop('born_dead');
    END IF;
    IF s.born < m.worked_off THEN
        PERFORM stop('moved');
    END IF;
END $$;
