-- The proof that a grant was given for (domain::proof), with the methods as sessions have them; NULL is that of its session.
ALTER TABLE grants ADD COLUMN auth_time bigint;
ALTER TABLE grants ADD COLUMN amr text;

-- By which methods a session's user had proved who they are, as far as its cookie before is concerned; NULL is not known.
ALTER TABLE sessions ADD COLUMN old_amr text;

-- Both as before for whoever names no proof, as the releases before.
CREATE OR REPLACE FUNCTION insert_grant_4(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO grants (id, session, client, scope, born, secret, mac_key, epoch, counter, made_at, handed_at, handouts,
        predecessor, ended_rev, audience, sender, agent, auth_time, amr)
        VALUES (decode(x ->> 'id', 'hex'), decode(x ->> 'session', 'hex'), decode(x ->> 'client', 'hex'), x ->> 'scope',
            (x ->> 'born')::bigint, decode(x ->> 'secret', 'hex'), (x ->> 'key')::bigint, (x ->> 'epoch')::bigint,
            (x ->> 'to')::bigint, (x ->> 'made_at')::bigint, (x ->> 'handed_at')::bigint, (x ->> 'handouts')::bigint,
            (x ->> 'to_predecessor')::bigint, (x ->> 'ended_rev')::bigint,
            x ->> 'audience', decode(x ->> 'sender', 'hex'), x ->> 'agent', (x ->> 'auth_time')::bigint, x ->> 'amr')
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    IF NOT EXISTS (SELECT 1 FROM sessions s, clients c
        WHERE s.id = decode(x ->> 'session', 'hex') AND c.id = decode(x ->> 'client', 'hex')) THEN
        PERFORM stop('missing');
    END IF;
END $$;

CREATE OR REPLACE FUNCTION plain_step_7(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea;
BEGIN
    IF x ->> 'do' = 'set_cookie' THEN
        v_id := decode(x ->> 'id', 'hex');
        UPDATE sessions s SET cookie = decode(x ->> 'cookie', 'hex'), old_cookie = decode(x ->> 'old', 'hex'),
            old_auth_time = (x ->> 'old_auth_time')::bigint, old_amr = x ->> 'old_amr',
            old_until = (x ->> 'old_until')::bigint
            WHERE s.id = v_id AND s.cookie = decode(x ->> 'before', 'hex');
        RETURN CASE WHEN FOUND THEN NULL WHEN EXISTS (SELECT 1 FROM sessions s WHERE s.id = v_id) THEN 'moved'
            ELSE 'missing' END;
    END IF;
    RETURN plain_step_6(x, p_at);
END $$;
