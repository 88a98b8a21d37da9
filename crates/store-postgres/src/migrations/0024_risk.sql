-- What is remembered of an account for the rules of risk: a text that only they read, and how often it was written.
CREATE TABLE risk_memories (
    account bytea  PRIMARY KEY CHECK (octet_length(account) = 16),
    memory  text   NOT NULL,
    version bigint NOT NULL
) WITH (fillfactor = 70);

-- From which network a grant was made or last refreshed, by a MAC; null is not known. Nodes of the release before leave it as it is.
ALTER TABLE grants ADD COLUMN network bytea;

-- As before for whoever names no network, as the releases before.
CREATE OR REPLACE FUNCTION insert_grant_4(x jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO grants (id, session, client, scope, born, secret, mac_key, epoch, counter, made_at, handed_at, handouts,
        predecessor, ended_rev, audience, sender, agent, auth_time, amr, network)
        VALUES (decode(x ->> 'id', 'hex'), decode(x ->> 'session', 'hex'), decode(x ->> 'client', 'hex'), x ->> 'scope',
            (x ->> 'born')::bigint, decode(x ->> 'secret', 'hex'), (x ->> 'key')::bigint, (x ->> 'epoch')::bigint,
            (x ->> 'to')::bigint, (x ->> 'made_at')::bigint, (x ->> 'handed_at')::bigint, (x ->> 'handouts')::bigint,
            (x ->> 'to_predecessor')::bigint, (x ->> 'ended_rev')::bigint,
            x ->> 'audience', decode(x ->> 'sender', 'hex'), x ->> 'agent', (x ->> 'auth_time')::bigint, x ->> 'amr',
            decode(x ->> 'network', 'hex'))
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    IF NOT EXISTS (SELECT 1 FROM sessions s, clients c
        WHERE s.id = decode(x ->> 'session', 'hex') AND c.id = decode(x ->> 'client', 'hex')) THEN
        PERFORM stop('missing');
    END IF;
END $$;

CREATE FUNCTION set_risk(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    v_debt bigint;
BEGIN
    CASE x ->> 'do'
    WHEN 'set_network' THEN
        UPDATE grants g SET network = decode(x ->> 'network', 'hex') WHERE g.id = v_id;
        RETURN CASE WHEN NOT FOUND THEN 'missing' END;
    WHEN 'put_memory' THEN
        -- Of a tombstone nothing is remembered.
        IF NOT EXISTS (SELECT 1 FROM accounts a WHERE a.id = v_id AND a.status <> 'deleted') THEN
            RETURN 'missing';
        END IF;
        IF (x ->> 'version')::bigint = 0 THEN
            INSERT INTO risk_memories (account, memory, version) VALUES (v_id, x ->> 'memory', 1) ON CONFLICT DO NOTHING;
        ELSE
            UPDATE risk_memories r SET memory = x ->> 'memory', version = r.version + 1
                WHERE r.account = v_id AND r.version = (x ->> 'version')::bigint;
        END IF;
        RETURN CASE WHEN NOT FOUND THEN 'moved' END;
    WHEN 'draw' THEN
        -- throttle::draw.
        v_debt := coalesce((SELECT greatest(b.debt - greatest(p_at::numeric - b.seen_at, 0), 0)::bigint FROM budgets b
            WHERE b.key = v_id), 0) + (x ->> 'every')::bigint;
        IF v_debt > (x ->> 'size')::bigint THEN
            RETURN 'moved';
        END IF;
        INSERT INTO budgets (key, debt, seen_at, full_at) VALUES (v_id, v_debt, p_at, p_at + v_debt)
            ON CONFLICT (key) DO UPDATE SET debt = excluded.debt, seen_at = excluded.seen_at, full_at = excluded.full_at;
        RETURN NULL;
    END CASE;
END $$;

-- As before for whoever sends none of these steps, as the releases before.
CREATE OR REPLACE FUNCTION plain_step_6(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN x ->> 'do' IN ('set_network', 'put_memory', 'draw') THEN set_risk(x, p_at)
        WHEN x ->> 'do' IN ('insert_link', 'use_link', 'sign_out_link', 'remove_link', 'insert_origin') THEN set_link(x)
        ELSE plain_step_5(x, p_at) END;
END $$;

-- Also where a node of an earlier release makes a tombstone.
CREATE FUNCTION forget_memory() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM risk_memories r WHERE r.account = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER forget_memory_with_accounts AFTER UPDATE OF status ON accounts FOR EACH ROW
    WHEN (NEW.status = 'deleted') EXECUTE FUNCTION forget_memory();
