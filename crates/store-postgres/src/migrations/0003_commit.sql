-- The commit of a group: one statement, which is one transaction and one round trip. Row locks come first, in one order; the
-- counter's lock comes last, and from then on nothing waits for anybody but the disk.

CREATE FUNCTION set_family(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
BEGIN
    UPDATE grants g SET secret = decode(x ->> 'secret', 'hex'), mac_key = (x ->> 'key')::bigint, epoch = (x ->> 'epoch')::bigint,
        counter = (x ->> 'to')::bigint, made_at = (x ->> 'made_at')::bigint, handed_at = (x ->> 'handed_at')::bigint,
        handouts = (x ->> 'handouts')::bigint, predecessor = (x ->> 'to_predecessor')::bigint
        WHERE g.id = v_id AND g.counter = (x ->> 'counter')::bigint
            AND g.predecessor IS NOT DISTINCT FROM (x ->> 'predecessor')::bigint;
    RETURN CASE WHEN FOUND THEN NULL WHEN EXISTS (SELECT 1 FROM grants g WHERE g.id = v_id) THEN 'moved' ELSE 'missing' END;
END $$;

CREATE FUNCTION hand_out(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
BEGIN
    UPDATE grants g SET handed_at = greatest(g.handed_at, (x ->> 'at')::bigint), handouts = g.handouts + 1
        WHERE g.id = v_id AND g.counter = (x ->> 'counter')::bigint;
    RETURN CASE WHEN FOUND THEN NULL WHEN EXISTS (SELECT 1 FROM grants g WHERE g.id = v_id) THEN 'moved' ELSE 'missing' END;
END $$;

-- Appends one entry and writes its rev where it belongs.
CREATE FUNCTION revoke(x jsonb, idle_ttl bigint, at bigint, OUT rev bigint, OUT ended bigint) LANGUAGE plpgsql AS $$
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
        rev := append(x ->> 'verb', x ->> 'scope', x ->> 'target', v_except, (x ->> 'spread_ms')::bigint);
        RETURN;
    END CASE;
    IF NOT FOUND THEN
        PERFORM stop('missing');
    END IF;
    rev := append(x ->> 'verb', x ->> 'scope', x ->> 'target', v_except, (x ->> 'spread_ms')::bigint);
END $$;

CREATE FUNCTION set_status(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
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
        UPDATE accounts a SET email = NULL, name = NULL, password_hash = NULL, roles = '{}' WHERE a.id = v_id;
        -- Two statements, so that each has its index.
        UPDATE sessions s SET ip = NULL, net = NULL WHERE s.account = v_id AND s.ended_rev IS NULL AND s.ip IS NOT NULL;
        UPDATE sessions s SET ip = NULL, net = NULL WHERE s.account = v_id AND s.ended_rev IS NOT NULL AND s.ip IS NOT NULL;
    END IF;
END $$;

-- Deletes entries whose `until` lies before the floor: a prefix, since `until` never falls along the log.
CREATE FUNCTION raise_floor(to_ms bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_floor bigint;
    v_last bigint;
BEGIN
    UPDATE meta SET floor = greatest(floor, to_ms) RETURNING floor INTO v_floor;
    WITH kept AS (SELECT min(l.rev) AS rev FROM log l WHERE l.until >= v_floor),
        gone AS (DELETE FROM log l USING kept k WHERE k.rev IS NULL OR l.rev < k.rev RETURNING l.rev)
        SELECT max(g.rev) INTO v_last FROM gone g;
    IF v_last IS NOT NULL THEN
        UPDATE meta SET forgotten = greatest(forgotten, v_last);
    END IF;
END $$;

-- A new epoch, after this position.
CREATE FUNCTION refound(p_epoch bigint, base bigint, at bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE meta SET epoch = p_epoch, head = base, forgotten = base, worked_off = base, standing = 0
        WHERE p_epoch > epoch AND base > head;
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    DELETE FROM log;
    UPDATE jobs SET finished_at = at WHERE finished_at IS NULL;
END $$;

CREATE FUNCTION insert_job(x jsonb, own bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM jobs j WHERE j.id = decode(x ->> 'id', 'hex')) THEN
        PERFORM stop('moved');
    END IF;
    IF own IS NULL THEN
        PERFORM stop('missing');
    END IF;
    INSERT INTO jobs SELECT * FROM jsonb_populate_record(NULL::jobs, x || jsonb_build_object(
        'id', '\x' || (x ->> 'id'), 'rev', own, 'last', own, 'except_id', '\x' || (x ->> 'except_id'),
        'cursor', '\x' || (x ->> 'cursor'), 'account_ids', to_jsonb(ids(x -> 'account_ids'))));
    UPDATE meta SET standing = standing + 1 WHERE x ->> 'finished_at' IS NULL;
END $$;

-- Marks the rows, and moves the job; the newest rev.
CREATE FUNCTION step_job(x jsonb, own bigint, idle_ttl bigint, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    j jobs;
    s sessions;
    v_rev bigint := own;
    v_id bytea;
    v_to bytea := decode(x ->> 'to', 'hex');
BEGIN
    SELECT t.* INTO j FROM jobs t WHERE t.id = decode(x ->> 'id', 'hex');
    IF NOT FOUND OR j.finished_at IS NOT NULL OR j.cursor IS DISTINCT FROM decode(x ->> 'from', 'hex') THEN
        PERFORM stop(CASE WHEN j.id IS NULL THEN 'missing' ELSE 'moved' END);
    END IF;
    j.last := coalesce(own, j.last);
    FOREACH v_id IN ARRAY ids(x -> 'sessions') LOOP
        SELECT t.* INTO s FROM sessions t WHERE t.id = v_id AND t.ended_rev IS NULL;
        CONTINUE WHEN NOT FOUND;
        j.ended := j.ended + (SELECT count(*) FROM accounts a, meta m
            WHERE a.id = s.account AND alive(s, a, m, idle_ttl, at, false));
        IF (x ->> 'log')::boolean THEN
            j.last := (SELECT m.head + 1 FROM meta m);
        END IF;
        UPDATE sessions t SET ended_rev = j.last, ended_reason = x ->> 'reason', ended_at = at WHERE t.id = v_id;
        IF (x ->> 'log')::boolean THEN
            v_rev := append_session(v_id, s.account, (x ->> 'most')::bigint, NULL, NULL);
            j.entries := j.entries + 1;
        END IF;
    END LOOP;
    UPDATE jobs t SET cursor = v_to, scanned = j.scanned + (x ->> 'scanned')::bigint, ended = j.ended, entries = j.entries,
        silent = (x ->> 'silent')::boolean, last = j.last, finished_at = CASE WHEN v_to IS NULL THEN at END
        WHERE t.id = j.id;
    IF v_to IS NULL THEN
        UPDATE meta SET worked_off = greatest(worked_off, j.rev), standing = greatest(standing - 1, 0);
    END IF;
    RETURN v_rev;
END $$;

CREATE FUNCTION insert_account(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM accounts a WHERE a.id = decode(x ->> 'id', 'hex')) THEN
        PERFORM stop('moved');
    END IF;
    INSERT INTO accounts (id, email, name, password_hash, password_version, roles, status, status_reason, status_actor,
        status_at, status_until, status_rev, created_at, cut_rev, cut_except, version)
        VALUES (decode(x ->> 'id', 'hex'), x ->> 'email', x ->> 'name', x ->> 'password_hash',
            (x ->> 'password_version')::bigint, ARRAY(SELECT jsonb_array_elements_text(x -> 'roles')), x ->> 'status',
            x ->> 'reason', x ->> 'actor', (x ->> 'at')::bigint, (x ->> 'until')::bigint, (x ->> 'rev')::bigint,
            (x ->> 'created_at')::bigint, (x ->> 'cut_rev')::bigint, decode(x ->> 'cut_except', 'hex'),
            (x ->> 'version')::bigint)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM stop('email_taken');
    END IF;
END $$;

CREATE FUNCTION insert_session(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s sessions;
    m meta;
BEGIN
    INSERT INTO sessions (id, account, kind, device_name, agent, ip, net, created_at, auth_time, last_seen_at,
        absolute_expires_at, born, epoch, cookie, ended_rev, ended_reason, ended_at)
        VALUES (decode(x ->> 'id', 'hex'), decode(x ->> 'account', 'hex'), x ->> 'kind', x ->> 'device_name', x ->> 'agent',
            x ->> 'ip', (x ->> 'net')::inet, (x ->> 'created_at')::bigint, (x ->> 'auth_time')::bigint,
            (x ->> 'last_seen_at')::bigint, (x ->> 'absolute_expires_at')::bigint, (x ->> 'born')::bigint,
            (x ->> 'epoch')::bigint, decode(x ->> 'cookie', 'hex'), (x ->> 'ended_rev')::bigint, x ->> 'ended_reason',
            (x ->> 'ended_at')::bigint)
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

CREATE FUNCTION insert_grant(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO grants (id, session, client, scope, born, secret, mac_key, epoch, counter, made_at, handed_at, handouts,
        predecessor, ended_rev)
        VALUES (decode(x ->> 'id', 'hex'), decode(x ->> 'session', 'hex'), decode(x ->> 'client', 'hex'), x ->> 'scope',
            (x ->> 'born')::bigint, decode(x ->> 'secret', 'hex'), (x ->> 'key')::bigint, (x ->> 'epoch')::bigint,
            (x ->> 'to')::bigint, (x ->> 'made_at')::bigint, (x ->> 'handed_at')::bigint, (x ->> 'handouts')::bigint,
            (x ->> 'to_predecessor')::bigint, (x ->> 'ended_rev')::bigint)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    IF NOT EXISTS (SELECT 1 FROM sessions s, clients c
        WHERE s.id = decode(x ->> 'session', 'hex') AND c.id = decode(x ->> 'client', 'hex')) THEN
        PERFORM stop('missing');
    END IF;
END $$;

-- throttle::take. All three rows are written whatever the verdict, so that the disk does not tell.
CREATE FUNCTION take_attempt(x jsonb, at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_at numeric := at;
    wanted text := CASE WHEN (x ->> 'device')::boolean THEN 'device'
        WHEN EXISTS (SELECT 1 FROM known_networks k WHERE k.account = decode(x ->> 'account', 'hex')
            AND k.network = decode(x ->> 'network', 'hex') AND v_at - k.at < (x ->> 'life')::bigint) THEN 'network'
        ELSE 'stranger' END;
    debts bigint[];
    fits boolean;
BEGIN
    SELECT array_agg(d.debt ORDER BY d.n), bool_and(NOT d.charged OR d.debt + d.every <= d.size) INTO debts, fits FROM (
        SELECT n, (b ->> 'every')::bigint AS every, (b ->> 'size')::bigint AS size, wanted = 'stranger' OR n = 2 AS charged,
            coalesce(greatest(r.debt - greatest(at::numeric - r.seen_at, 0), 0), 0)::bigint AS debt
        FROM jsonb_array_elements(x -> 'buckets') WITH ORDINALITY e(b, n)
            LEFT JOIN budgets r ON r.key = decode(b ->> 'key', 'hex')) d;
    INSERT INTO budgets (key, debt, seen_at, full_at)
        SELECT d.key, d.debt, at, at + d.debt FROM (
            SELECT decode(b ->> 'key', 'hex') AS key, debts[n] + CASE WHEN fits AND (wanted = 'stranger' OR n = 2)
                THEN (b ->> 'every')::bigint ELSE 0 END AS debt
            FROM jsonb_array_elements(x -> 'buckets') WITH ORDINALITY e(b, n) ORDER BY 1) d
        ON CONFLICT (key) DO UPDATE SET debt = excluded.debt, seen_at = excluded.seen_at, full_at = excluded.full_at;
    RETURN CASE WHEN fits THEN wanted ELSE 'throttled' END;
END $$;

-- throttle::give_back, of those buckets that were charged.
CREATE FUNCTION give_back(x jsonb, at bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE budgets r SET debt = d.debt, seen_at = at, full_at = at + d.debt FROM (
        SELECT t.key, greatest(greatest(t.debt - greatest(at::numeric - t.seen_at, 0), 0) - (b ->> 'every')::bigint, 0)::bigint
            AS debt
        FROM jsonb_array_elements(x -> 'buckets') b JOIN budgets t ON t.key = decode(b ->> 'key', 'hex')) d
        WHERE r.key = d.key;
END $$;

-- throttle::networks_to_forget.
CREATE FUNCTION know_network(x jsonb, at bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_account bytea := decode(x ->> 'account', 'hex');
    v_at bigint := at;
BEGIN
    INSERT INTO known_networks (account, network, at) VALUES (v_account, decode(x ->> 'network', 'hex'), v_at)
        ON CONFLICT (account, network) DO UPDATE SET at = excluded.at;
    DELETE FROM known_networks k USING (
        SELECT t.network, t.at, row_number() OVER (ORDER BY t.at DESC, t.network) AS n
        FROM known_networks t WHERE t.account = v_account) o
        WHERE k.account = v_account AND k.network = o.network
            AND (o.n > (x ->> 'most')::bigint OR v_at::numeric - o.at >= (x ->> 'life')::bigint);
END $$;

CREATE FUNCTION prune_attempts(x jsonb, at bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    most bigint := (x ->> 'most')::bigint;
    v_at bigint := at;
    gone bigint;
BEGIN
    DELETE FROM budgets WHERE key IN
        (SELECT b.key FROM budgets b WHERE b.full_at <= v_at ORDER BY b.full_at, b.key LIMIT most);
    GET DIAGNOSTICS gone = ROW_COUNT;
    DELETE FROM budgets WHERE key IN (SELECT b.key FROM budgets b ORDER BY b.full_at, b.key
        LIMIT least(most - gone, greatest((SELECT count(*) FROM budgets) - (x ->> 'keep')::bigint, 0)));
    DELETE FROM known_networks WHERE (account, network) IN (SELECT k.account, k.network FROM known_networks k
        WHERE k.at <= v_at::numeric - (x ->> 'life')::bigint ORDER BY k.at, k.account, k.network LIMIT most);
END $$;

-- retention::may_go.
CREATE FUNCTION may_go(s sessions, m meta, at bigint, keep jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    since numeric := least(s.absolute_expires_at, s.ended_at,
        greatest(s.last_seen_at, used_at(s.id))::numeric + (keep ->> 'idle_ttl')::bigint);
    newest bigint := greatest(s.ended_rev, (SELECT max(g.ended_rev) FROM grants g WHERE g.session = s.id));
BEGIN
    RETURN (newest IS NULL OR newest <= m.forgotten) AND since < m.floor AND since + (keep ->> 'ended')::bigint <= at;
END $$;

CREATE FUNCTION prune_sessions(x jsonb, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    gone bytea[];
BEGIN
    SELECT array_agg(s.id) INTO gone FROM sessions s, meta m WHERE s.id = ANY (ids(x -> 'sessions')) AND may_go(s, m, at, x -> 'keep');
    DELETE FROM grants g WHERE g.session = ANY (gone);
    DELETE FROM sessions s WHERE s.id = ANY (gone);
    RETURN coalesce(cardinality(gone), 0);
END $$;

CREATE FUNCTION forget_session_addresses(x jsonb, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    UPDATE sessions s SET ip = NULL, net = NULL WHERE s.id = ANY (ids(x -> 'sessions')) AND s.ip IS NOT NULL
        AND s.created_at::numeric + (x -> 'keep' ->> 'addresses')::bigint <= at;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;

-- Old audit records go when everything else of the changes is written.
CREATE FUNCTION prune_events(x jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
    before bigint := (x ->> 'before')::bigint;
    most bigint := (x ->> 'most')::bigint;
BEGIN
    IF x ->> 'do' = 'prune_events' THEN
        DELETE FROM events WHERE seq IN (SELECT e.seq FROM events e ORDER BY e.seq LIMIT most) AND at < before;
    ELSE
        UPDATE events SET ip = NULL WHERE seq IN (SELECT e.seq FROM events e
            WHERE e.ip IS NOT NULL AND e.at < before ORDER BY e.at, e.seq LIMIT most);
    END IF;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;
