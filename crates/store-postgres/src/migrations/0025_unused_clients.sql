-- Clients that registered themselves and that nobody used (domain::retention). The indexes for it are steps of their own.
CREATE FUNCTION prune_clients(x jsonb, p_at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    -- An array, so that the rows are chosen once, whatever the plan. One that somebody is at stays for now.
    DELETE FROM clients d WHERE d.id = ANY (ARRAY(SELECT c.id FROM clients c WHERE c.id = ANY (ids(x -> 'clients'))
        AND c.created_at + (x ->> 'unused')::bigint <= p_at
        AND (c.profile::jsonb ->> 'deleted' = 'true' OR (c.profile::jsonb ->> 'registration' IS NOT NULL
            AND c.profile::jsonb ->> 'vouched' IS DISTINCT FROM 'true'))
        AND c.profile::jsonb ->> 'service_account' IS NULL
        AND NOT EXISTS (SELECT 1 FROM consents k WHERE k.client = c.id)
        AND NOT EXISTS (SELECT 1 FROM tickets t WHERE t.client = c.id)
        AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.client = c.id)
        AND NOT EXISTS (SELECT 1 FROM grants g WHERE g.client = c.id AND g.client <> '\x00000000000000000000000000000000')
        FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;

-- As it was otherwise.
CREATE OR REPLACE FUNCTION free_step_7(x jsonb, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
    gone bigint;
    v_session bytea;
BEGIN
    -- A row that somebody is at stays for now: its lock is not waited for under the counter's. Arrays, so that the rows are
    -- chosen once, whatever the plan.
    CASE x ->> 'do'
    WHEN 'prune_grants' THEN
        DELETE FROM grants d WHERE d.id = ANY (ARRAY(SELECT g.id FROM grants g
            WHERE g.ended_rev IS NOT NULL AND g.ended_rev <= (SELECT m.forgotten FROM meta m)
            ORDER BY g.ended_rev, g.id LIMIT (x ->> 'most')::bigint FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS n = ROW_COUNT;
        RETURN n;
    WHEN 'prune_clients' THEN
        RETURN prune_clients(x, at);
    WHEN 'crowd_out_tickets' THEN
        v_session := decode(x ->> 'session', 'hex');
        DELETE FROM tickets d WHERE d.id = ANY (ARRAY(SELECT l.id FROM tickets l WHERE l.id = ANY (ARRAY(
            SELECT t.id FROM tickets t WHERE t.session = v_session AND t.kind = x ->> 'kind' AND t.used_at IS NULL
            ORDER BY t.expires_at DESC, t.id DESC OFFSET (x ->> 'open')::bigint)) FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS gone = ROW_COUNT;
        DELETE FROM tickets d WHERE d.id = ANY (ARRAY(SELECT l.id FROM tickets l WHERE l.id = ANY (ARRAY(
            SELECT t.id FROM tickets t WHERE t.session = v_session AND t.kind = x ->> 'kind' AND t.used_at IS NOT NULL
            ORDER BY t.expires_at DESC, t.id DESC OFFSET (x ->> 'used')::bigint)) FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS n = ROW_COUNT;
        RETURN gone + n;
    ELSE
        RETURN free_step_5(x, at);
    END CASE;
END $$;
