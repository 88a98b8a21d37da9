-- Steps that write one row, which must be there or must not: the conflict otherwise.
CREATE FUNCTION plain_step(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := CASE WHEN jsonb_typeof(x -> 'id') = 'string' THEN decode(x ->> 'id', 'hex') END;
    otherwise text := 'missing';
BEGIN
    CASE x ->> 'do'
    WHEN 'set_profile' THEN
        UPDATE accounts a SET name = x ->> 'name', roles = ARRAY(SELECT jsonb_array_elements_text(x -> 'roles')),
            version = a.version + 1 WHERE a.id = v_id;
    WHEN 'set_password' THEN
        UPDATE accounts a SET password_hash = x ->> 'hash', version = a.version + 1,
            password_version = a.password_version + CASE WHEN (x ->> 'rehash')::boolean THEN 0 ELSE 1 END WHERE a.id = v_id;
    WHEN 'rename_session' THEN
        UPDATE sessions s SET device_name = x ->> 'device_name' WHERE s.id = v_id;
    WHEN 'set_client_disabled' THEN
        UPDATE clients c SET disabled = (x ->> 'disabled')::boolean WHERE c.id = v_id;
    WHEN 'insert_client' THEN
        otherwise := 'moved';
        INSERT INTO clients (id, name, kind, secret, disabled, created_at, cut_rev, cut_except)
            VALUES (v_id, x ->> 'name', x ->> 'kind', decode(x ->> 'secret', 'hex'), (x ->> 'disabled')::boolean,
                (x ->> 'created_at')::bigint, (x ->> 'cut_rev')::bigint, decode(x ->> 'cut_except', 'hex'))
            ON CONFLICT DO NOTHING;
    WHEN 'insert_instance' THEN
        otherwise := 'moved';
        INSERT INTO instances (id, client, name, policy, bound_ms, secret, created_at)
            VALUES (v_id, decode(x ->> 'client', 'hex'), x ->> 'name', x ->> 'policy', (x ->> 'bound_ms')::bigint,
                decode(x ->> 'secret', 'hex'), (x ->> 'created_at')::bigint)
            ON CONFLICT DO NOTHING;
    WHEN 'update_instance' THEN
        UPDATE instances i SET name = x ->> 'name', policy = x ->> 'policy', bound_ms = (x ->> 'bound_ms')::bigint
            WHERE i.id = v_id;
    WHEN 'insert_key' THEN
        otherwise := 'moved';
        INSERT INTO keys (id, purpose, public_jwk, sealed, created_at, active_from, retired_at, dead)
            VALUES ((x ->> 'key')::bigint, x ->> 'purpose', x ->> 'public_jwk', decode(x ->> 'sealed', 'hex'),
                (x ->> 'created_at')::bigint, (x ->> 'active_from')::bigint, (x ->> 'retired_at')::bigint,
                (x ->> 'dead')::bigint)
            ON CONFLICT DO NOTHING;
    WHEN 'set_key_times' THEN
        UPDATE keys k SET active_from = (x ->> 'active_from')::bigint, retired_at = (x ->> 'retired_at')::bigint
            WHERE k.id = (x ->> 'key')::bigint;
    WHEN 'set_key_sealed' THEN
        IF EXISTS (SELECT 1 FROM keys k WHERE k.id = (x ->> 'key')::bigint) THEN
            otherwise := 'moved';
        END IF;
        UPDATE keys k SET sealed = decode(x ->> 'sealed', 'hex')
            WHERE k.id = (x ->> 'key')::bigint AND k.sealed = decode(x ->> 'before', 'hex');
    END CASE;
    RETURN CASE WHEN NOT FOUND THEN otherwise END;
END $$;

-- Steps that write any number of rows, none too. How many of them are counted.
CREATE FUNCTION free_step(x jsonb, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint := 0;
BEGIN
    CASE x ->> 'do'
    WHEN 'seen' THEN
        UPDATE sessions s SET last_seen_at = greatest(s.last_seen_at, t.at) FROM (
            SELECT decode(e ->> 0, 'hex') AS id, max((e ->> 1)::bigint) AS at FROM jsonb_array_elements(x -> 'sessions') e
            GROUP BY 1) t WHERE s.id = t.id AND s.last_seen_at < t.at;
    WHEN 'raise_horizon' THEN
        UPDATE meta SET horizon = (x ->> 'to')::bigint WHERE horizon < (x ->> 'to')::bigint;
    WHEN 'raise_floor' THEN
        PERFORM raise_floor((x ->> 'to')::bigint);
    WHEN 'remove_instances' THEN
        DELETE FROM instances i WHERE i.id = ANY (ids(x -> 'ids'));
    WHEN 'set_bound' THEN
        UPDATE meta SET bound_now_ms = (x ->> 'current_ms')::bigint, bound_next_ms = (x ->> 'next_ms')::bigint,
            bound_next_from = (x ->> 'next_from')::bigint;
    WHEN 'forget_jobs' THEN
        DELETE FROM jobs j WHERE j.finished_at < (x ->> 'before')::bigint;
    WHEN 'forget_idempotency' THEN
        DELETE FROM remembered r WHERE r.at < (x ->> 'before')::bigint;
    WHEN 'give_back' THEN
        PERFORM give_back(x, at);
    WHEN 'know_network' THEN
        PERFORM know_network(x, at);
    WHEN 'prune_attempts' THEN
        PERFORM prune_attempts(x, at);
    WHEN 'prune_sessions' THEN
        n := prune_sessions(x, at);
    WHEN 'forget_session_addresses' THEN
        n := forget_session_addresses(x, at);
    WHEN 'refound' THEN
        PERFORM refound((x ->> 'epoch')::bigint, (x ->> 'base')::bigint, at);
    END CASE;
    RETURN n;
END $$;

-- What an act writes, and what it made known.
CREATE FUNCTION act_writes(a jsonb, p_at bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
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
            conflict := plain_step(x);
        WHEN 'free' THEN
            v_pruned := v_pruned + free_step(x, p_at);
        ELSE
            CASE x ->> 'do'
            WHEN 'set_family' THEN
                conflict := set_family(x);
            WHEN 'hand_out' THEN
                conflict := hand_out(x);
            WHEN 'insert_account' THEN
                PERFORM insert_account(x);
            WHEN 'insert_session' THEN
                PERFORM insert_session(x);
            WHEN 'insert_grant' THEN
                PERFORM insert_grant(x);
            WHEN 'set_status' THEN
                PERFORM set_status(x);
                IF x ->> 'status' IN ('deleted', 'deleting') THEN
                    deleted := deleted || jsonb_build_array(x);
                END IF;
            WHEN 'revoke' THEN
                SELECT * INTO r FROM revoke(x, idle_ttl, p_at);
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
CREATE FUNCTION act(a jsonb, at bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    conflict text;
    x jsonb;
BEGIN
    FOR x IN SELECT e.value FROM jsonb_array_elements(a -> 'expects') WITH ORDINALITY e(value, n) ORDER BY n LOOP
        conflict := expectation(x, (a ->> 'idle_ttl')::bigint, at);
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
        RETURN act_writes(a, at);
    EXCEPTION WHEN SQLSTATE 'PC001' THEN
        RETURN jsonb_build_object('conflict', SQLERRM);
    END;
END $$;

-- A group of acts. `exclusive`: they may write the counter's row, or what only its lock protects; others share it, and are kept
-- apart by their row locks.
CREATE FUNCTION commit_group(g jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    l jsonb := g -> 'locks';
    head_before bigint;
    head_after bigint;
    at bigint;
    a jsonb;
    outcomes jsonb[] := '{}';
    sessions bytea[] := ids(l -> 'sessions');
    grants bytea[] := ids(l -> 'grants');
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
        outcomes := outcomes || act(a, at);
    END LOOP;
    IF head_before IS NOT NULL THEN
        SELECT m.head INTO STRICT head_after FROM meta m;
        IF head_after <> head_before THEN
            PERFORM pg_notify('portcullis_log', head_after::text);
        END IF;
    END IF;
    RETURN jsonb_build_object('at', at, 'acts', to_jsonb(outcomes));
END $$;
