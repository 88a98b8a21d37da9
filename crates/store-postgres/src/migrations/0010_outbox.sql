-- What others are told of an end: notices, written in the act's own transaction, and messages on their way out.

CREATE TABLE notices (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- 'session', 'grant' (of `session`), 'account', 'client' or 'all'.
    scope         text   NOT NULL,
    target        bytea,
    session       bytea,
    except_id     bytea,
    rev           bigint NOT NULL,
    -- The cut that stood there before.
    before_rev    bigint NOT NULL,
    before_except bytea,
    at            bigint NOT NULL,
    -- The session up to which messages were made.
    cursor        bytea
);

-- The body is the business of the kind; no secret is in it.
CREATE TABLE messages (
    id         bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    kind       text   NOT NULL,
    client     bytea,
    body       text   NOT NULL,
    created_at bigint NOT NULL,
    -- When it is tried next; while it is claimed, when the claim lapses.
    next_at    bigint NOT NULL,
    give_up_at bigint NOT NULL,
    tries      bigint NOT NULL,
    state      text   NOT NULL,
    settled_at bigint,
    last_error text,
    version    bigint NOT NULL
);
CREATE INDEX messages_due ON messages (next_at, id) WHERE state = 'waiting';
CREATE INDEX messages_settled ON messages (state, settled_at) WHERE state <> 'waiting';

-- A notice of one session that ends with this entry: when another client than the built-in one has a grant under it.
CREATE FUNCTION leave_notice_of_session(p_session bytea, p_rev bigint, p_at bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notices (scope, target, rev, before_rev, at) SELECT 'session', p_session, p_rev, 0, p_at
        WHERE EXISTS (SELECT 1 FROM grants g WHERE g.session = p_session AND g.client <> decode(repeat('00', 16), 'hex'));
END $$;

-- A notice of what an entry ends, where others are told of it; called under the counter's lock, before anything of that is
-- written.
CREATE FUNCTION leave_notice(x jsonb, p_at bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    v_except bytea := decode(x ->> 'except', 'hex');
    m meta;
BEGIN
    IF NOT (x ->> 'told')::boolean THEN
        RETURN;
    END IF;
    SELECT t.* INTO STRICT m FROM meta t;
    CASE x ->> 'row'
    WHEN 'session' THEN
        PERFORM leave_notice_of_session(v_id, m.head + 1, p_at);
    WHEN 'grant' THEN
        INSERT INTO notices (scope, target, session, rev, before_rev, at)
            SELECT 'grant', g.id, g.session, m.head + 1, 0, p_at FROM grants g WHERE g.id = v_id;
    WHEN 'account' THEN
        INSERT INTO notices (scope, target, except_id, rev, before_rev, before_except, at)
            SELECT 'account', a.id, v_except, m.head + 1, a.cut_rev, a.cut_except, p_at FROM accounts a WHERE a.id = v_id;
    WHEN 'client' THEN
        INSERT INTO notices (scope, target, rev, before_rev, at) VALUES ('client', v_id, m.head + 1, 0, p_at);
    WHEN 'all' THEN
        INSERT INTO notices (scope, except_id, rev, before_rev, before_except, at)
            VALUES ('all', v_except, m.head + 1, m.cut_rev, m.cut_except, p_at);
    END CASE;
END $$;

-- A message made or changed, or a notice worked on: the conflict otherwise.
CREATE FUNCTION set_outgoing(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    v_seq bigint := (x ->> 'seq')::bigint;
    v_from bytea := decode(x ->> 'from', 'hex');
BEGIN
    CASE x ->> 'do'
    WHEN 'insert_message' THEN
        INSERT INTO messages (id, kind, client, body, created_at, next_at, give_up_at, tries, state, settled_at, last_error,
            version)
            VALUES (v_id, x ->> 'kind', decode(x ->> 'client', 'hex'), x ->> 'body', (x ->> 'created_at')::bigint,
                (x ->> 'next_at')::bigint, (x ->> 'give_up_at')::bigint, (x ->> 'tries')::bigint, x ->> 'state',
                (x ->> 'settled_at')::bigint, x ->> 'last_error', (x ->> 'version')::bigint)
            ON CONFLICT DO NOTHING;
    WHEN 'update_message' THEN
        UPDATE messages m SET next_at = (x ->> 'next_at')::bigint, give_up_at = (x ->> 'give_up_at')::bigint,
            tries = (x ->> 'tries')::bigint, state = x ->> 'state', settled_at = (x ->> 'settled_at')::bigint,
            last_error = x ->> 'last_error', version = m.version + 1
            WHERE m.id = v_id AND m.version = (x ->> 'version')::bigint;
        IF NOT FOUND AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = v_id) THEN
            RETURN 'missing';
        END IF;
    WHEN 'step_notice' THEN
        IF x ->> 'to' IS NULL THEN
            DELETE FROM notices n WHERE n.seq = v_seq AND n.cursor IS NOT DISTINCT FROM v_from;
        ELSE
            UPDATE notices n SET cursor = decode(x ->> 'to', 'hex')
                WHERE n.seq = v_seq AND n.cursor IS NOT DISTINCT FROM v_from;
        END IF;
    END CASE;
    RETURN CASE WHEN NOT FOUND THEN 'moved' END;
END $$;

CREATE FUNCTION plain_step_5(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN x ->> 'do' IN ('insert_message', 'update_message', 'step_notice') THEN set_outgoing(x)
        ELSE plain_step_4(x, p_at) END;
END $$;

CREATE FUNCTION free_step_5(x jsonb, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    IF x ->> 'do' = 'prune_messages' THEN
        DELETE FROM messages d WHERE d.id IN (SELECT m.id FROM messages m WHERE m.state <> 'waiting'
            AND ((m.state = 'done' AND m.settled_at < (x ->> 'done')::bigint)
                OR (m.state = 'dead' AND m.settled_at < (x ->> 'dead')::bigint))
            ORDER BY m.settled_at, m.id LIMIT (x ->> 'most')::bigint);
        GET DIAGNOSTICS n = ROW_COUNT;
        RETURN n;
    END IF;
    RETURN free_step_4(x, at);
END $$;

-- As act_writes_4, with what others are told.
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
            conflict := plain_step_5(x, p_at);
        WHEN 'free' THEN
            v_pruned := v_pruned + free_step_5(x, p_at);
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
                PERFORM leave_notice(x, p_at);
                SELECT * INTO r FROM revoke(x, idle_ttl, p_at);
                v_rev := r.rev;
                -- Several ends in one commit are counted together.
                v_ended := r.ended + coalesce(v_ended, 0);
            WHEN 'insert_job' THEN
                PERFORM insert_job(x, v_rev);
            WHEN 'step_job' THEN
                -- Before they are marked. Those that are ended already have left one.
                PERFORM leave_notice_of_session(s.id, coalesce(v_rev, m.head) + (x ->> 'log')::boolean::int, p_at)
                    FROM meta m, sessions s WHERE s.id = ANY (ids(x -> 'sessions')) AND s.ended_rev IS NULL;
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
