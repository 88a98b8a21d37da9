-- What a commit asks and writes under the counter's lock. Each function says which Rust function it spells; random histories
-- hold both to one another. PL/pgSQL and VOLATILE where a table is read: each statement then has a snapshot of its own, taken
-- after the locks.

-- An id as text (wire::ids): Crockford's base32, 26 characters.
CREATE FUNCTION id_text(prefix text, id bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT prefix || '_' || string_agg(
        substr('0123456789abcdefghjkmnpqrstvwxyz', substring(b FROM n * 5 + 1 FOR 5)::bit(5)::int + 1, 1), '' ORDER BY n)
    FROM generate_series(0, 25) n, (SELECT B'00' || ('x' || encode(id, 'hex'))::bit(128) AS b) bits
$$;

-- One part of a link: length, then bytes.
CREATE FUNCTION link_part(part text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT int8send(octet_length(b)) || b FROM (SELECT convert_to(part, 'UTF8') AS b) bytes
$$;

-- The link after an entry (wire::Chain::after).
CREATE FUNCTION link_after(chain bytea, rev bigint, verb text, scope text, target text, except_id bytea, spread_ms bigint,
    until bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(chain || int8send(rev) || link_part(verb) || link_part(scope) || link_part(target)
        || link_part(coalesce(id_text('ses', except_id), '')) || int8send(coalesce(spread_ms, 0)) || int8send(until))
$$;

-- Stops an act; what it wrote is taken back.
CREATE FUNCTION stop(conflict text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION SQLSTATE 'PC001' USING MESSAGE = conflict;
END $$;

-- model::Account::usable_at.
CREATE FUNCTION usable(a accounts, at bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT a.status = 'active' OR a.status = 'blocked' AND a.status_until IS NOT NULL AND at >= a.status_until
$$;

-- mass::Standing::kills.
CREATE FUNCTION kills(j jobs, s sessions) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT s.born < j.rev AND s.id IS DISTINCT FROM j.except_id AND j.of_sessions
        AND (cardinality(j.account_ids) = 0 OR s.account = ANY (j.account_ids))
        AND (j.created_before IS NULL OR s.created_at < j.created_before)
        AND (j.network IS NULL OR coalesce(s.net <<= j.network::inet, false))
$$;

-- mass::killed_by.
CREATE FUNCTION killed(s sessions) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM jobs j WHERE j.finished_at IS NULL AND kills(j, s));
END $$;

-- When a refresh token was last used under a session.
CREATE FUNCTION used_at(session_id bytea) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT max(greatest(g.handed_at, g.made_at)) FROM grants g WHERE g.session = session_id);
END $$;

-- view::session_dead, the other way round. `rules`: whether rules of revocations by filter are asked.
CREATE FUNCTION alive(s sessions, a accounts, m meta, idle_ttl bigint, at bigint, rules boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF s.ended_rev IS NOT NULL OR s.epoch <> m.epoch
        OR s.born < a.cut_rev AND s.id IS DISTINCT FROM a.cut_except
        OR s.born < m.cut_rev AND s.id IS DISTINCT FROM m.cut_except
        OR NOT usable(a, at) OR at >= s.absolute_expires_at THEN
        RETURN false;
    END IF;
    IF idle_ttl IS NOT NULL
        AND at >= greatest(s.last_seen_at, coalesce(used_at(s.id), s.last_seen_at))::numeric + idle_ttl THEN
        RETURN false;
    END IF;
    RETURN NOT (rules AND m.standing > 0 AND killed(s));
END $$;

-- How many sessions of an account live, besides these.
CREATE FUNCTION living(account_id bytea, besides bytea[], idle_ttl bigint, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT count(*) FROM meta m, accounts a JOIN sessions s ON s.account = a.id
        WHERE a.id = account_id AND s.ended_rev IS NULL AND s.id <> ALL (besides)
            AND alive(s, a, m, idle_ttl, at, true));
END $$;

-- Appends one entry: rev, `until` and chain are computed from the counter's row under its lock.
CREATE FUNCTION append(p_verb text, p_scope text, p_target text, p_except bytea, p_spread bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    m meta;
BEGIN
    UPDATE meta SET head = head + 1,
        chain = link_after(chain, head + 1, p_verb, p_scope, p_target, p_except, p_spread, horizon)
        RETURNING * INTO STRICT m;
    INSERT INTO log (rev, verb, scope, target, except_id, spread_ms, until)
        VALUES (m.head, p_verb, p_scope, p_target, p_except, p_spread, m.horizon);
    RETURN m.head;
END $$;

-- An entry about one session that was just ended (kernel::entry_for_session).
CREATE FUNCTION append_session(session_id bytea, account_id bytea, most bigint, p_except bytea, p_spread bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    unforgotten bigint := (SELECT count(*) FROM sessions s, meta m WHERE s.account = account_id AND s.ended_rev > m.forgotten);
BEGIN
    IF unforgotten > most THEN
        RETURN append('stale', 'account', id_text('acc', account_id), p_except, p_spread);
    END IF;
    RETURN append('end', 'session', id_text('ses', session_id), p_except, p_spread);
END $$;

-- What an act relied on: the conflict when it no longer holds (domain::changes::Expect).
CREATE FUNCTION expectation(x jsonb, idle_ttl bigint, at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    held boolean;
BEGIN
    CASE x ->> 'is'
    WHEN 'alive' THEN
        SELECT alive(s, a, m, idle_ttl, at, true) AND (x ->> 'role' IS NULL OR x ->> 'role' = ANY (a.roles)) INTO held
            FROM meta m, sessions s JOIN accounts a ON a.id = s.account WHERE s.id = v_id;
        RETURN CASE WHEN held THEN NULL ELSE 'not_alive:' || (x ->> 'id') END;
    WHEN 'unborn' THEN
        SELECT usable(a, at) AND NOT c.disabled AND (x ->> 'born')::bigint >= greatest(a.cut_rev, c.cut_rev, m.cut_rev)
            INTO held FROM meta m, accounts a, clients c WHERE a.id = v_id AND c.id = decode(x ->> 'client', 'hex');
        RETURN CASE WHEN held THEN NULL ELSE 'born_dead' END;
    WHEN 'account_version' THEN
        SELECT a.version = (x ->> 'version')::bigint INTO held FROM accounts a WHERE a.id = v_id;
    WHEN 'password_version' THEN
        SELECT a.password_version = (x ->> 'version')::bigint INTO held FROM accounts a WHERE a.id = v_id;
    WHEN 'family' THEN
        SELECT g.counter = (x ->> 'counter')::bigint AND g.predecessor IS NOT DISTINCT FROM (x ->> 'predecessor')::bigint
            INTO held FROM grants g WHERE g.id = v_id;
    WHEN 'handouts' THEN
        SELECT g.handouts = (x ->> 'handouts')::bigint INTO held FROM grants g WHERE g.id = v_id;
    WHEN 'session_not_ended' THEN
        SELECT s.ended_rev IS NULL INTO held FROM sessions s WHERE s.id = v_id;
    WHEN 'live_sessions' THEN
        held := living(v_id, ids(x -> 'besides'), idle_ttl, at) <= (x ->> 'at_most')::bigint;
    WHEN 'email_free' THEN
        RETURN CASE WHEN EXISTS (SELECT 1 FROM accounts a WHERE a.email = x ->> 'email') THEN 'email_taken' END;
    WHEN 'standing_below' THEN
        RETURN CASE WHEN (SELECT m.standing FROM meta m) >= (x ->> 'limit')::bigint THEN 'too_many' END;
    WHEN 'no_accounts' THEN
        held := NOT EXISTS (SELECT 1 FROM accounts);
    END CASE;
    RETURN CASE WHEN held IS NULL THEN 'missing' WHEN NOT held THEN 'moved' END;
END $$;

-- A list of ids.
CREATE FUNCTION ids(list jsonb) RETURNS bytea[] LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(decode(value, 'hex')), '{}') FROM jsonb_array_elements_text(coalesce(list, '[]'))
$$;
