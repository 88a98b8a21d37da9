-- The last end of everything of an account that spared no session, where a later one did; null is not known, and then that one
-- counts (domain::cut).
ALTER TABLE accounts ADD COLUMN cut_whole bigint;
-- Whether nobody has signed in to it yet. Of those from before this release nobody knows: they count as used.
ALTER TABLE accounts ADD COLUMN unused boolean NOT NULL DEFAULT false;

-- Also where a node of an earlier release ends all sessions but one.
CREATE FUNCTION keep_cut() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.cut_whole := CASE WHEN OLD.cut_except IS NULL THEN OLD.cut_rev ELSE coalesce(OLD.cut_whole, OLD.cut_rev) END;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_cut_of_accounts BEFORE UPDATE OF cut_rev ON accounts FOR EACH ROW
    WHEN (NEW.cut_except IS NOT NULL) EXECUTE FUNCTION keep_cut();

-- As before for whoever asks neither, as the releases before.
CREATE OR REPLACE FUNCTION expectation_7(x jsonb, idle_ttl bigint, at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_born bigint := (x ->> 'born')::bigint;
    held boolean;
BEGIN
    IF x ->> 'is' = 'live_sessions' AND jsonb_typeof(x -> 'kinds') = 'array' THEN
        RETURN CASE WHEN (SELECT count(*) FROM meta m, accounts a JOIN sessions s ON s.account = a.id
            WHERE a.id = decode(x ->> 'id', 'hex') AND s.ended_rev IS NULL AND s.id <> ALL (ids(x -> 'besides'))
                AND x -> 'kinds' ? s.kind AND alive(s, a, m, idle_ttl, at, true)) > (x ->> 'at_most')::bigint THEN 'moved' END;
    ELSIF x ->> 'is' = 'unended' THEN
        SELECT usable(a, at) AND v_born >= m.cut_rev AND v_born >= CASE WHEN a.cut_except IS NULL THEN a.cut_rev
            ELSE coalesce(a.cut_whole, a.cut_rev) END
            INTO held FROM meta m, accounts a WHERE a.id = decode(x ->> 'id', 'hex');
        RETURN CASE WHEN held THEN NULL ELSE 'born_dead' END;
    ELSIF x ->> 'is' = 'webhooks_below' THEN
        RETURN CASE WHEN (SELECT count(*) FROM webhooks) >= (x ->> 'limit')::bigint THEN 'moved' END;
    END IF;
    RETURN expectation_4(x, idle_ttl, at);
END $$;

-- As before for whoever does not send that step, as the releases before.
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
    ELSIF x ->> 'do' = 'set_unused' THEN
        v_id := decode(x ->> 'id', 'hex');
        UPDATE accounts a SET unused = (x ->> 'unused')::boolean WHERE a.id = v_id;
        RETURN CASE WHEN NOT FOUND THEN 'missing' END;
    END IF;
    RETURN plain_step_6(x, p_at);
END $$;
