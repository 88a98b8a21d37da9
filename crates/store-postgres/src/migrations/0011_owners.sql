-- Whose grants and tokens the entries of the log end: of one account only so many stand there (kernel::entry_for).
ALTER TABLE log ADD COLUMN owner bytea;
CREATE INDEX log_by_owner ON log (owner) WHERE owner IS NOT NULL;

-- As append; the end of a grant or token beyond so many of one account is one `stale` of that account.
CREATE FUNCTION append_owned(x jsonb, p_except bytea) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_owner bytea := CASE x ->> 'verb' WHEN 'end' THEN decode(x ->> 'owner', 'hex') END;
    v_spread bigint := (x ->> 'spread_ms')::bigint;
    v_rev bigint;
BEGIN
    IF v_owner IS NULL THEN
        RETURN append(x ->> 'verb', x ->> 'scope', x ->> 'target', p_except, v_spread);
    END IF;
    IF (SELECT count(*) FROM log l WHERE l.owner = v_owner) >= (x ->> 'most')::bigint THEN
        RETURN append('stale', 'account', id_text('acc', v_owner), p_except, v_spread);
    END IF;
    v_rev := append(x ->> 'verb', x ->> 'scope', x ->> 'target', p_except, v_spread);
    UPDATE log l SET owner = v_owner WHERE l.rev = v_rev;
    RETURN v_rev;
END $$;

-- Appends one entry and writes its rev where it belongs: as before for whoever names no owner, as the releases before.
CREATE OR REPLACE FUNCTION revoke(x jsonb, idle_ttl bigint, at bigint, OUT rev bigint, OUT ended bigint) LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    v_except bytea := decode(x ->> 'except', 'hex');
    v_next bigint := (SELECT m.head + 1 FROM meta m);
    s sessions;
BEGIN
    -- The table whose row it marks; none where there is no such row.
    CASE x ->> 'row'
    WHEN 'session' THEN
        SELECT t.* INTO s FROM sessions t WHERE t.id = v_id;
        IF NOT FOUND OR s.ended_rev IS NOT NULL THEN
            PERFORM stop(CASE WHEN s.id IS NULL THEN 'missing' ELSE 'moved' END);
        END IF;
        ended := (SELECT count(*) FROM accounts a, meta m WHERE a.id = s.account AND alive(s, a, m, idle_ttl, at, true));
        UPDATE sessions t SET ended_rev = v_next, ended_reason = x ->> 'reason', ended_at = at WHERE t.id = v_id;
        rev := append_session(v_id, s.account, (x ->> 'most')::bigint, v_except, (x ->> 'spread_ms')::bigint);
        RETURN;
    WHEN 'grant' THEN
        UPDATE grants g SET ended_rev = v_next WHERE g.id = v_id;
        ended := 0;
    WHEN 'account' THEN
        ended := living(v_id, CASE WHEN v_except IS NULL THEN '{}' ELSE ARRAY[v_except] END, idle_ttl, at);
        UPDATE accounts a SET cut_rev = v_next, cut_except = v_except WHERE a.id = v_id;
    WHEN 'client' THEN
        UPDATE clients c SET cut_rev = v_next, cut_except = v_except WHERE c.id = v_id;
    WHEN 'all' THEN
        UPDATE meta SET cut_rev = v_next, cut_except = v_except;
    WHEN 'key' THEN
        UPDATE keys k SET dead = v_next WHERE k.id = (x ->> 'key')::bigint AND k.dead IS NULL;
        IF NOT FOUND THEN
            PERFORM stop(CASE WHEN EXISTS (SELECT 1 FROM keys k WHERE k.id = (x ->> 'key')::bigint)
                THEN 'moved' ELSE 'missing' END);
        END IF;
        ended := 0;
    ELSE
        rev := append_owned(x, v_except);
        RETURN;
    END CASE;
    IF NOT FOUND THEN
        PERFORM stop('missing');
    END IF;
    rev := append_owned(x, v_except);
END $$;
