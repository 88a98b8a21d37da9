-- Clients with a profile, what accounts allowed them, and tickets. What the release before writes has the defaults of the new
-- columns. No CHECK on old tables: to add one reads them whole.

-- Whose session it is: a connected app's and a service's is their client's own, a sign-in on a device is the built-in client's.
ALTER TABLE sessions ADD COLUMN client bytea;

-- What access tokens are for, the key that they are bound to, and what got them. A refresh changes none of it.
ALTER TABLE grants ADD COLUMN audience text, ADD COLUMN sender bytea, ADD COLUMN agent text;

-- What a client registered, as JSON; what a refresh asks of that stands beside it, so that no refresh reads JSON.
ALTER TABLE clients ADD COLUMN old_secret bytea, ADD COLUMN old_secret_until bigint,
    ADD COLUMN profile text NOT NULL DEFAULT '{}', ADD COLUMN access_ttl bigint,
    ADD COLUMN version bigint NOT NULL DEFAULT 1;

-- The clients of a filter as ids, for sessions that have one. NULL where the release before made the rule.
ALTER TABLE jobs ADD COLUMN client_ids bytea[];

-- What accounts allowed clients; withdrawn ones stay, for what was begun under an earlier generation is dead.
CREATE TABLE consents (
    account    bytea  NOT NULL CHECK (octet_length(account) = 16),
    client     bytea  NOT NULL CHECK (octet_length(client) = 16),
    scope      text   NOT NULL,
    granted_at bigint NOT NULL,
    generation bigint NOT NULL,
    PRIMARY KEY (account, client)
);

-- What can be used once, by the digest of its secret. The body is the business of its kind.
CREATE TABLE tickets (
    id         bytea  PRIMARY KEY CHECK (octet_length(id) = 32),
    kind       text   NOT NULL,
    account    bytea,
    session    bytea,
    client     bytea,
    born       bigint NOT NULL,
    epoch      bigint NOT NULL,
    expires_at bigint NOT NULL,
    body       text   NOT NULL,
    version    bigint NOT NULL,
    used_at    bigint,
    used_grant bytea
) WITH (fillfactor = 70);
CREATE INDEX tickets_by_age ON tickets (expires_at, id);
-- Those of an account that is deleted.
CREATE INDEX tickets_by_account ON tickets (account) WHERE account IS NOT NULL;

-- mass::Standing::kills. Of sessions and rules that the release before can have made it says what it said.
CREATE OR REPLACE FUNCTION kills(j jobs, s sessions) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT s.born < j.rev AND s.id IS DISTINCT FROM j.except_id
        AND CASE WHEN s.client IS NULL THEN j.of_sessions
            ELSE j.clients = '[]' OR coalesce(s.client = ANY (j.client_ids), false) END
        AND (cardinality(j.account_ids) = 0 OR s.account = ANY (j.account_ids))
        AND (j.created_before IS NULL OR s.created_at < j.created_before)
        AND (j.network IS NULL OR coalesce(s.net <<= j.network::inet, false))
$$;

-- What an act relied on: the conflict when it no longer holds (domain::changes::Expect).
CREATE FUNCTION expectation_4(x jsonb, idle_ttl bigint, at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    v_client bytea := decode(x ->> 'client', 'hex');
    v_born bigint := (x ->> 'born')::bigint;
    v_under bytea := decode(x ->> 'under', 'hex');
    held boolean;
BEGIN
    CASE x ->> 'is'
    WHEN 'unborn' THEN
        SELECT usable(a, at) AND NOT c.disabled AND (v_born >= a.cut_rev OR v_under = a.cut_except)
            AND (v_born >= c.cut_rev OR v_under = c.cut_except) AND (v_born >= m.cut_rev OR v_under = m.cut_except)
            INTO held FROM meta m, accounts a, clients c WHERE a.id = v_id AND c.id = v_client;
        RETURN CASE WHEN held THEN NULL ELSE 'born_dead' END;
    WHEN 'client_version' THEN
        SELECT c.version = (x ->> 'version')::bigint INTO held FROM clients c WHERE c.id = v_id;
    WHEN 'consent' THEN
        held := generation(v_id, v_client) = (x ->> 'generation')::bigint;
    WHEN 'no_other_grants' THEN
        held := NOT EXISTS (SELECT 1 FROM meta m, sessions s JOIN accounts a ON a.id = s.account
            JOIN grants g ON g.session = s.id JOIN clients c ON c.id = g.client
            WHERE s.account = v_id AND s.epoch = m.epoch AND s.ended_rev IS NULL AND s.absolute_expires_at > at
                AND (s.born >= a.cut_rev OR s.id IS NOT DISTINCT FROM a.cut_except)
                AND (s.born >= m.cut_rev OR s.id IS NOT DISTINCT FROM m.cut_except)
                AND g.ended_rev IS NULL AND g.client = v_client
                AND (g.born >= c.cut_rev OR s.id IS NOT DISTINCT FROM c.cut_except)
                AND g.id <> ALL (ids(x -> 'besides')));
    WHEN 'grant_not_ended' THEN
        SELECT g.ended_rev IS NULL INTO held FROM grants g WHERE g.id = v_id;
    ELSE
        RETURN expectation(x, idle_ttl, at);
    END CASE;
    RETURN CASE WHEN held IS NULL THEN 'missing' WHEN NOT held THEN 'moved' END;
END $$;

-- How often a consent was withdrawn.
CREATE FUNCTION generation(account_id bytea, client_id bytea) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT k.generation FROM consents k WHERE k.account = account_id AND k.client = client_id), 0);
END $$;

-- A consent given, or withdrawn: then there is no scope, and the generation is the next one. The conflict otherwise.
CREATE FUNCTION set_consent(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_account bytea := decode(x ->> 'account', 'hex');
    v_client bytea := decode(x ->> 'client', 'hex');
    v_generation bigint := (x ->> 'generation')::bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM accounts a, clients c WHERE a.id = v_account AND c.id = v_client) THEN
        RETURN 'missing';
    END IF;
    IF generation(v_account, v_client) <> v_generation THEN
        RETURN 'moved';
    END IF;
    IF x ->> 'do' = 'put_consent' THEN
        INSERT INTO consents (account, client, scope, granted_at, generation)
            VALUES (v_account, v_client, x ->> 'scope', (x ->> 'granted_at')::bigint, v_generation)
            ON CONFLICT (account, client) DO UPDATE SET scope = excluded.scope, granted_at = excluded.granted_at;
    ELSE
        INSERT INTO consents AS k (account, client, scope, granted_at, generation)
            VALUES (v_account, v_client, '', p_at, v_generation + 1)
            ON CONFLICT (account, client) DO UPDATE SET scope = '', generation = k.generation + 1;
    END IF;
    RETURN NULL;
END $$;

-- A ticket made, changed or used: the conflict otherwise.
CREATE FUNCTION set_ticket(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    was_used boolean;
BEGIN
    CASE x ->> 'do'
    WHEN 'insert_ticket' THEN
        INSERT INTO tickets (id, kind, account, session, client, born, epoch, expires_at, body, version, used_at, used_grant)
            VALUES (v_id, x ->> 'kind', decode(x ->> 'account', 'hex'), decode(x ->> 'session', 'hex'),
                decode(x ->> 'client', 'hex'), (x ->> 'born')::bigint, (x ->> 'epoch')::bigint,
                (x ->> 'expires_at')::bigint, x ->> 'body', (x ->> 'version')::bigint, (x ->> 'used_at')::bigint,
                decode(x ->> 'used_grant', 'hex'))
            ON CONFLICT DO NOTHING;
        RETURN CASE WHEN NOT FOUND THEN 'used' END;
    WHEN 'update_ticket' THEN
        UPDATE tickets t SET account = decode(x ->> 'account', 'hex'), session = decode(x ->> 'session', 'hex'),
            body = x ->> 'body', expires_at = (x ->> 'expires_at')::bigint, version = t.version + 1
            WHERE t.id = v_id AND t.version = (x ->> 'version')::bigint AND t.used_at IS NULL;
    WHEN 'use_ticket' THEN
        UPDATE tickets t SET used_at = (x ->> 'at')::bigint, used_grant = decode(x ->> 'grant', 'hex')
            WHERE t.id = v_id AND t.used_at IS NULL;
    END CASE;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    SELECT t.used_at IS NOT NULL INTO was_used FROM tickets t WHERE t.id = v_id;
    RETURN CASE WHEN NOT FOUND THEN 'missing' WHEN was_used THEN 'used' ELSE 'moved' END;
END $$;

-- Steps that write one row, which must be there or must not: the conflict otherwise.
CREATE FUNCTION plain_step_4(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea;
BEGIN
    CASE x ->> 'do'
    WHEN 'insert_ticket', 'update_ticket', 'use_ticket' THEN
        RETURN set_ticket(x);
    WHEN 'put_consent', 'withdraw_consent' THEN
        RETURN set_consent(x, p_at);
    WHEN 'set_auth_time' THEN
        UPDATE sessions s SET auth_time = (x ->> 'at')::bigint WHERE s.id = decode(x ->> 'id', 'hex');
        RETURN CASE WHEN NOT FOUND THEN 'missing' END;
    WHEN 'insert_client' THEN
        INSERT INTO clients (id, name, kind, secret, disabled, created_at, cut_rev, cut_except, old_secret,
            old_secret_until, profile, access_ttl, version)
            VALUES (decode(x ->> 'id', 'hex'), x ->> 'name', x ->> 'kind', decode(x ->> 'secret', 'hex'),
                (x ->> 'disabled')::boolean, (x ->> 'created_at')::bigint, (x ->> 'cut_rev')::bigint,
                decode(x ->> 'cut_except', 'hex'), decode(x ->> 'old_secret', 'hex'),
                (x ->> 'old_secret_until')::bigint, x ->> 'profile', (x ->> 'access_ttl')::bigint,
                (x ->> 'version')::bigint)
            ON CONFLICT DO NOTHING;
        RETURN CASE WHEN NOT FOUND THEN 'moved' END;
    WHEN 'update_client' THEN
        v_id := decode(x ->> 'id', 'hex');
        UPDATE clients c SET name = x ->> 'name', kind = x ->> 'kind', secret = decode(x ->> 'secret', 'hex'),
            created_at = (x ->> 'created_at')::bigint, old_secret = decode(x ->> 'old_secret', 'hex'),
            old_secret_until = (x ->> 'old_secret_until')::bigint, profile = x ->> 'profile',
            access_ttl = (x ->> 'access_ttl')::bigint, version = c.version + 1
            WHERE c.id = v_id AND c.version = (x ->> 'version')::bigint;
        RETURN CASE WHEN FOUND THEN NULL WHEN EXISTS (SELECT 1 FROM clients c WHERE c.id = v_id) THEN 'moved'
            ELSE 'missing' END;
    ELSE
        RETURN plain_step(x);
    END CASE;
END $$;

-- Steps that write any number of rows, none too. How many of them are counted.
CREATE FUNCTION free_step_4(x jsonb, at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    IF x ->> 'do' = 'prune_tickets' THEN
        -- One that somebody is at goes the next time: its lock is not waited for under the counter's.
        -- An array, so that the rows are chosen once, whatever the plan.
        DELETE FROM tickets d WHERE d.id = ANY (ARRAY(SELECT t.id FROM tickets t
            WHERE t.expires_at < (x ->> 'before')::bigint
            ORDER BY t.expires_at, t.id LIMIT (x ->> 'most')::bigint FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS n = ROW_COUNT;
        RETURN n;
    END IF;
    IF x ->> 'do' = 'refound' THEN
        DELETE FROM tickets;
    END IF;
    RETURN free_step(x, at);
END $$;

CREATE FUNCTION set_status_4(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_status(x);
    IF x ->> 'status' = 'deleted' THEN
        DELETE FROM consents k WHERE k.account = decode(x ->> 'id', 'hex');
        DELETE FROM tickets t WHERE t.account = decode(x ->> 'id', 'hex');
    END IF;
END $$;

CREATE FUNCTION insert_session_4(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s sessions;
    m meta;
BEGIN
    INSERT INTO sessions (id, account, kind, device_name, agent, ip, net, created_at, auth_time, last_seen_at,
        absolute_expires_at, born, epoch, cookie, ended_rev, ended_reason, ended_at, client)
        VALUES (decode(x ->> 'id', 'hex'), decode(x ->> 'account', 'hex'), x ->> 'kind', x ->> 'device_name', x ->> 'agent',
            x ->> 'ip', (x ->> 'net')::inet, (x ->> 'created_at')::bigint, (x ->> 'auth_time')::bigint,
            (x ->> 'last_seen_at')::bigint, (x ->> 'absolute_expires_at')::bigint, (x ->> 'born')::bigint,
            (x ->> 'epoch')::bigint, decode(x ->> 'cookie', 'hex'), (x ->> 'ended_rev')::bigint, x ->> 'ended_reason',
            (x ->> 'ended_at')::bigint, decode(x ->> 'client', 'hex'))
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

CREATE FUNCTION insert_grant_4(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO grants (id, session, client, scope, born, secret, mac_key, epoch, counter, made_at, handed_at, handouts,
        predecessor, ended_rev, audience, sender, agent)
        VALUES (decode(x ->> 'id', 'hex'), decode(x ->> 'session', 'hex'), decode(x ->> 'client', 'hex'), x ->> 'scope',
            (x ->> 'born')::bigint, decode(x ->> 'secret', 'hex'), (x ->> 'key')::bigint, (x ->> 'epoch')::bigint,
            (x ->> 'to')::bigint, (x ->> 'made_at')::bigint, (x ->> 'handed_at')::bigint, (x ->> 'handouts')::bigint,
            (x ->> 'to_predecessor')::bigint, (x ->> 'ended_rev')::bigint,
            x ->> 'audience', decode(x ->> 'sender', 'hex'), x ->> 'agent')
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    IF NOT EXISTS (SELECT 1 FROM sessions s, clients c
        WHERE s.id = decode(x ->> 'session', 'hex') AND c.id = decode(x ->> 'client', 'hex')) THEN
        PERFORM stop('missing');
    END IF;
END $$;

-- What an act writes, and what it made known.
CREATE FUNCTION act_writes_4(a jsonb, p_at bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
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
CREATE FUNCTION act_4(a jsonb, at bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
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
        RETURN act_writes_4(a, at);
    EXCEPTION WHEN SQLSTATE 'PC001' THEN
        RETURN jsonb_build_object('conflict', SQLERRM);
    END;
END $$;

-- A group of acts, as commit_group, with the locks of tickets.
CREATE FUNCTION commit_acts_4(g jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
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
        outcomes := outcomes || act_4(a, at);
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
CREATE FUNCTION commit_group_4(g jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
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
    outcome := commit_acts_4(g);
    RETURN outcome || jsonb_build_object('commits', v_commits, 'epoch', (SELECT m.epoch FROM meta m));
END $$;
