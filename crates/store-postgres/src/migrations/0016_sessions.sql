-- The cookie of a browser's session before its last proof, as long as it is still taken (domain::page_cookie).
ALTER TABLE sessions ADD COLUMN old_cookie bytea;
ALTER TABLE sessions ADD COLUMN old_auth_time bigint;
ALTER TABLE sessions ADD COLUMN old_until bigint;

-- When a refresh token of a session's own client was last used under it: what others do under a browser's session is no use of
-- it (decision 0034). A question, asked under the counter's lock by the release before as well: what that still takes for alive
-- because an application refreshed is refused there.
CREATE OR REPLACE FUNCTION used_at(session_id bytea) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT max(greatest(g.handed_at, g.made_at)) FROM sessions s JOIN grants g ON g.session = s.id
        AND g.client = coalesce(s.client, '\x00000000000000000000000000000000') WHERE s.id = session_id);
END $$;

-- As expectation_4, with counts of some kinds of sessions alone.
CREATE FUNCTION expectation_7(x jsonb, idle_ttl bigint, at bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF x ->> 'is' = 'live_sessions' AND jsonb_typeof(x -> 'kinds') = 'array' THEN
        RETURN CASE WHEN (SELECT count(*) FROM meta m, accounts a JOIN sessions s ON s.account = a.id
            WHERE a.id = decode(x ->> 'id', 'hex') AND s.ended_rev IS NULL AND s.id <> ALL (ids(x -> 'besides'))
                AND x -> 'kinds' ? s.kind AND alive(s, a, m, idle_ttl, at, true)) > (x ->> 'at_most')::bigint THEN 'moved' END;
    END IF;
    RETURN expectation_4(x, idle_ttl, at);
END $$;

CREATE FUNCTION plain_step_7(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea;
BEGIN
    IF x ->> 'do' = 'set_cookie' THEN
        v_id := decode(x ->> 'id', 'hex');
        UPDATE sessions s SET cookie = decode(x ->> 'cookie', 'hex'), old_cookie = decode(x ->> 'old', 'hex'),
            old_auth_time = (x ->> 'old_auth_time')::bigint, old_until = (x ->> 'old_until')::bigint
            WHERE s.id = v_id AND s.cookie = decode(x ->> 'before', 'hex');
        RETURN CASE WHEN FOUND THEN NULL WHEN EXISTS (SELECT 1 FROM sessions s WHERE s.id = v_id) THEN 'moved'
            ELSE 'missing' END;
    END IF;
    RETURN plain_step_6(x, p_at);
END $$;

CREATE FUNCTION free_step_7(x jsonb, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
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

-- What calls these, as it was otherwise: act_writes_7, act_7, commit_acts_7, commit_group_7.
DO $$
DECLARE
    names text[] := ARRAY['act_writes', 'act', 'commit_acts', 'commit_group'];
    called text[] := names || ARRAY['plain_step', 'free_step', 'expectation'];
    name text;
    other text;
    body text;
BEGIN
    FOREACH name IN ARRAY names LOOP
        SELECT pg_get_functiondef(p.oid) INTO STRICT body FROM pg_proc p
            WHERE p.proname = name || '_6' AND p.pronamespace = 'portcullis'::regnamespace;
        FOREACH other IN ARRAY called LOOP
            body := regexp_replace(body, '\m' || other || '_[0-9]+\(', other || '_7(', 'g');
        END LOOP;
        EXECUTE body;
    END LOOP;
END $$;
