-- The browser's session in which a connected app was allowed: whoever signs out there signs out of the application. Nodes of the
-- release before send no such member, and leave it null. Its index is a step of its own.
ALTER TABLE sessions ADD COLUMN allowed_in bytea;

CREATE OR REPLACE FUNCTION insert_session_4(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s sessions;
    m meta;
BEGIN
    INSERT INTO sessions (id, account, kind, device_name, agent, ip, net, created_at, auth_time, last_seen_at,
        absolute_expires_at, born, epoch, cookie, ended_rev, ended_reason, ended_at, client, amr, allowed_in)
        VALUES (decode(x ->> 'id', 'hex'), decode(x ->> 'account', 'hex'), x ->> 'kind', x ->> 'device_name', x ->> 'agent',
            x ->> 'ip', (x ->> 'net')::inet, (x ->> 'created_at')::bigint, (x ->> 'auth_time')::bigint,
            (x ->> 'last_seen_at')::bigint, (x ->> 'absolute_expires_at')::bigint, (x ->> 'born')::bigint,
            (x ->> 'epoch')::bigint, decode(x ->> 'cookie', 'hex'), (x ->> 'ended_rev')::bigint, x ->> 'ended_reason',
            (x ->> 'ended_at')::bigint, decode(x ->> 'client', 'hex'), x ->> 'amr',
            decode(x ->> 'allowed_in', 'hex'))
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

-- A notice of one session that ends with this entry: when another client than the built-in one has a grant under it, or, where
-- somebody signed in to it, was allowed in it.
CREATE OR REPLACE FUNCTION leave_notice_of_session(p_session bytea, p_rev bigint, p_at bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notices (scope, target, rev, before_rev, at) SELECT 'session', p_session, p_rev, 0, p_at
        WHERE EXISTS (SELECT 1 FROM grants g WHERE g.session = p_session AND g.client <> decode(repeat('00', 16), 'hex'))
            OR EXISTS (SELECT 1 FROM sessions b JOIN sessions s ON s.account = b.account AND s.ended_rev IS NULL
                AND s.allowed_in = b.id AND s.client IS NOT NULL
                WHERE b.id = p_session AND b.kind IN ('browser', 'app'));
END $$;
