-- Whose grants and tokens the entries of the log end: of one account only so many stand there (kernel::entry_for).
ALTER TABLE log ADD COLUMN owner bytea;
CREATE INDEX log_by_owner ON log (owner) WHERE owner IS NOT NULL;

-- As revoke; the end of a grant or token beyond so many of one account is one `stale` of that account.
CREATE FUNCTION revoke_5(x jsonb, idle_ttl bigint, at bigint, OUT rev bigint, OUT ended bigint) LANGUAGE plpgsql AS $$
DECLARE
    v_owner bytea := CASE x ->> 'verb' WHEN 'end' THEN decode(x ->> 'owner', 'hex') END;
    v_step jsonb := x;
BEGIN
    IF (SELECT count(*) FROM log l WHERE l.owner = v_owner) >= (x ->> 'most')::bigint THEN
        v_step := x || jsonb_build_object('verb', 'stale', 'scope', 'account', 'target', id_text('acc', v_owner));
        v_owner := NULL;
    END IF;
    SELECT r.rev, r.ended INTO rev, ended FROM revoke(v_step, idle_ttl, at) r;
    IF v_owner IS NOT NULL THEN
        UPDATE log l SET owner = v_owner WHERE l.rev = revoke_5.rev;
    END IF;
END $$;

-- What an act writes, and what it made known.
CREATE FUNCTION act_writes_5(a jsonb, p_at bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    idle_ttl bigint := (a ->> 'idle_ttl')::bigint;
    v_rev bigint;
    v_ended bigint;
    v_pruned bigint := 0;
    v_attempt text;
    deleted jsonb := '[]';
    conflict text;
    r record;
    x jsonb;
BEGIN
    FOR x IN SELECT e.value FROM jsonb_array_elements(a -> 'steps') WITH ORDINALITY e(value, n) ORDER BY n LOOP
        conflict := NULL;
        CASE x ->> 'how'
        WHEN 'plain' THEN
            conflict := plain_step_4(x, p_at);
        WHEN 'free' THEN
            v_pruned := v_pruned + free_step_4(x, p_at);
        ELSE
            CASE x ->> 'do'
            WHEN 'set_family' THEN
                conflict := set_family(x);
            WHEN 'hand_out' THEN
                conflict := hand_out(x);
            WHEN 'insert_account' THEN
                PERFORM insert_account(x);
            WHEN 'insert_session' THEN
                PERFORM insert_session_4(x);
            WHEN 'insert_grant' THEN
                PERFORM insert_grant_4(x);
            WHEN 'set_status' THEN
                PERFORM set_status_4(x);
                IF x ->> 'status' IN ('deleted', 'deleting') THEN
                    deleted := deleted || jsonb_build_array(x);
                END IF;
            WHEN 'revoke' THEN
                SELECT * INTO r FROM revoke_5(x, idle_ttl, p_at);
                v_rev := r.rev;
                -- Several ends in one commit are counted together.
                v_ended := r.ended + coalesce(v_ended, 0);
            WHEN 'insert_job' THEN
                PERFORM insert_job(x, v_rev);
            WHEN 'step_job' THEN
                v_rev := step_job(x, v_rev, idle_ttl, p_at);
            WHEN 'take_attempt' THEN
                v_attempt := take_attempt(x, p_at);
            END CASE;
        END CASE;
        IF conflict IS NOT NULL THEN
            PERFORM stop(conflict);
        END IF;
    END LOOP;
    IF v_rev IS NOT NULL THEN
        -- A deleted account keeps the rev of the end that went with it, wherever that stood among the steps.
        FOR x IN SELECT e.value FROM jsonb_array_elements(deleted) WITH ORDINALITY e(value, n) ORDER BY n LOOP
            UPDATE accounts SET status = x ->> 'status', status_reason = NULL, status_actor = NULL, status_at = p_at,
                status_until = (x ->> 'until')::bigint, status_rev = v_rev WHERE id = decode(x ->> 'id', 'hex');
        END LOOP;
    END IF;
    x := a -> 'idempotency';
    IF jsonb_typeof(x) = 'object' THEN
        INSERT INTO remembered (actor, key, request, rev, ended, made, at)
            VALUES (x ->> 'actor', x ->> 'key', decode(x ->> 'request', 'hex'), v_rev, v_ended, x ->> 'made', p_at)
            ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            PERFORM stop('repeated');
        END IF;
    END IF;
    INSERT INTO events (id, kind, actor, account, session, client, ip, reason, at, rev, ended)
        SELECT decode(e ->> 'id', 'hex'), e ->> 'kind', e ->> 'actor', decode(e ->> 'account', 'hex'),
            decode(e ->> 'session', 'hex'), decode(e ->> 'client', 'hex'), e ->> 'ip', e ->> 'reason', p_at, v_rev, v_ended
        FROM jsonb_array_elements(a -> 'events') WITH ORDINALITY t(e, n) ORDER BY n;
    FOR x IN SELECT e.value FROM jsonb_array_elements(a -> 'last') WITH ORDINALITY e(value, n) ORDER BY n LOOP
        v_pruned := v_pruned + prune_events(x);
    END LOOP;
    RETURN jsonb_build_object('rev', v_rev, 'ended', v_ended, 'attempt', v_attempt, 'pruned', v_pruned);
END $$;

-- One act: all or nothing.
CREATE FUNCTION act_5(a jsonb, at bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    conflict text;
    x jsonb;
BEGIN
    FOR x IN SELECT e.value FROM jsonb_array_elements(a -> 'expects') WITH ORDINALITY e(value, n) ORDER BY n LOOP
        conflict := expectation_4(x, (a ->> 'idle_ttl')::bigint, at);
        IF conflict IS NOT NULL THEN
            RETURN jsonb_build_object('conflict', conflict);
        END IF;
    END LOOP;
    -- One statement is atomic by itself: the hot path needs no subtransaction.
    x := a -> 'alone';
    IF jsonb_typeof(x) = 'object' THEN
        conflict := CASE x ->> 'do' WHEN 'set_family' THEN set_family(x) ELSE hand_out(x) END;
        RETURN CASE WHEN conflict IS NULL THEN jsonb_build_object('pruned', 0)
            ELSE jsonb_build_object('conflict', conflict) END;
    END IF;
    BEGIN
        RETURN act_writes_5(a, at);
    EXCEPTION WHEN SQLSTATE 'PC001' THEN
        RETURN jsonb_build_object('conflict', SQLERRM);
    END;
END $$;

-- A group of acts, as commit_group, with the locks of tickets.
CREATE FUNCTION commit_acts_5(g jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    l jsonb := g -> 'locks';
    head_before bigint;
    head_after bigint;
    at bigint;
    a jsonb;
    outcomes jsonb[] := '{}';
    sessions bytea[] := ids(l -> 'sessions');
    grants bytea[] := ids(l -> 'grants');
    tickets bytea[] := ids(l -> 'tickets');
BEGIN
    PERFORM 1 FROM accounts t WHERE t.id = ANY (ids(l -> 'accounts')) ORDER BY t.id FOR UPDATE;
    IF jsonb_array_length(l -> 'sessions_of') > 0 THEN
        sessions := sessions || ARRAY(SELECT t.id FROM sessions t
            WHERE t.account = ANY (ids(l -> 'sessions_of')) AND t.ended_rev IS NULL AND t.ip IS NOT NULL
            UNION ALL SELECT t.id FROM sessions t
            WHERE t.account = ANY (ids(l -> 'sessions_of')) AND t.ended_rev IS NOT NULL AND t.ip IS NOT NULL);
    END IF;
    IF jsonb_array_length(l -> 'grants_of') > 0 THEN
        grants := grants || ARRAY(SELECT t.id FROM grants t WHERE t.session = ANY (ids(l -> 'grants_of')));
    END IF;
    PERFORM 1 FROM sessions t WHERE t.id = ANY (sessions) ORDER BY t.id FOR UPDATE;
    PERFORM 1 FROM grants t WHERE t.id = ANY (grants) ORDER BY t.id FOR UPDATE;
    IF l -> 'sessions_of' <> '[]' THEN
        tickets := tickets || ARRAY(SELECT t.id FROM tickets t WHERE t.account = ANY (ids(l -> 'sessions_of')));
    END IF;
    IF cardinality(tickets) > 0 THEN
        PERFORM 1 FROM tickets t WHERE t.id = ANY (tickets) ORDER BY t.id FOR UPDATE;
    END IF;
    -- Tickets that are to be: no row can be locked, and two who insert the same two in another order would wait for each other.
    IF l -> 'new_tickets' <> '[]' THEN
        PERFORM pg_advisory_xact_lock(1349481077, o.n) FROM (SELECT DISTINCT ('x' || left(value, 8))::bit(32)::int AS n
            FROM jsonb_array_elements_text(l -> 'new_tickets') ORDER BY 1) o;
    END IF;
    -- The counter's lock. An advisory one stands before the row's, because it is fair: whoever wants it alone does not starve
    -- among those who share it.
    IF (g ->> 'exclusive')::boolean THEN
        PERFORM pg_advisory_xact_lock(1349481076, 1);
        SELECT m.head INTO STRICT head_before FROM meta m FOR UPDATE;
    ELSE
        PERFORM pg_advisory_xact_lock_shared(1349481076, 1);
    END IF;
    at := coalesce((g ->> 'now')::bigint, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    FOR a IN SELECT e.value FROM jsonb_array_elements(g -> 'acts') WITH ORDINALITY e(value, n) ORDER BY n LOOP
        outcomes := outcomes || act_5(a, at);
    END LOOP;
    IF head_before IS NOT NULL THEN
        SELECT m.head INTO STRICT head_after FROM meta m;
        IF head_after <> head_before THEN
            PERFORM pg_notify('portcullis_log', head_after::text);
        END IF;
    END IF;
    RETURN jsonb_build_object('at', at, 'acts', to_jsonb(outcomes));
END $$;

-- The same, counted, as commit_group_2.
CREATE FUNCTION commit_group_5(g jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_by bytea := decode(g ->> 'by', 'hex');
    v_known bigint := (g ->> 'known')::bigint;
    v_epoch bigint := (SELECT m.epoch FROM meta m);
    v_void boolean := (g ->> 'anew')::boolean OR v_epoch > (g ->> 'epoch')::bigint;
    v_commits bigint;
    outcome jsonb;
BEGIN
    IF v_void OR v_known = 0 THEN
        INSERT INTO committers AS c (id, commits) VALUES (v_by, 1)
            ON CONFLICT (id) DO UPDATE SET commits = c.commits + 1 RETURNING c.commits INTO v_commits;
    ELSIF v_epoch = (g ->> 'epoch')::bigint THEN
        UPDATE committers c SET commits = c.commits + 1 WHERE c.id = v_by AND c.commits >= v_known
            RETURNING c.commits INTO v_commits;
    END IF;
    IF v_commits IS NULL THEN
        RETURN jsonb_build_object('found', (SELECT c.commits FROM committers c WHERE c.id = v_by), 'epoch', v_epoch);
    END IF;
    outcome := commit_acts_5(g);
    RETURN outcome || jsonb_build_object('commits', v_commits, 'epoch', (SELECT m.epoch FROM meta m));
END $$;
