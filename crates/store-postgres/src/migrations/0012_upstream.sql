-- Who of another provider is which account.
CREATE TABLE links (
    id         bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    issuer     text   NOT NULL,
    subject    text   NOT NULL,
    account    bytea  NOT NULL CHECK (octet_length(account) = 16),
    upstream   text   NOT NULL,
    label      text,
    created_at bigint NOT NULL,
    used_at    bigint NOT NULL,
    -- When the other provider last said that this person signed out.
    out_at     bigint,
    UNIQUE (issuer, subject)
);
CREATE INDEX links_by_account ON links (account, id);

-- From which session of which person at another provider a session came.
CREATE TABLE origins (
    session bytea PRIMARY KEY CHECK (octet_length(session) = 16),
    issuer  text NOT NULL,
    subject text NOT NULL,
    sid     text
);
CREATE INDEX origins_by_subject ON origins (issuer, subject, session);
CREATE INDEX origins_by_sid ON origins (issuer, sid, session) WHERE sid IS NOT NULL;

-- They go with what they are about, also where a node of an earlier release deletes that.
CREATE FUNCTION origin_goes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM origins o WHERE o.session = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER origins_go_with_sessions AFTER DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION origin_goes();
CREATE FUNCTION links_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM links l WHERE l.account = NEW.id;
    DELETE FROM origins o WHERE o.session IN (SELECT s.id FROM sessions s WHERE s.account = NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER links_go_with_accounts AFTER UPDATE OF status ON accounts FOR EACH ROW WHEN (NEW.status = 'deleted')
    EXECUTE FUNCTION links_go();

-- A link made, used or removed, or where a session came from: the conflict otherwise.
CREATE FUNCTION set_link(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bytea := decode(x ->> 'id', 'hex');
    v_account bytea := decode(x ->> 'account', 'hex');
BEGIN
    CASE x ->> 'do'
    WHEN 'insert_link' THEN
        IF NOT EXISTS (SELECT 1 FROM accounts a WHERE a.id = v_account) THEN
            RETURN 'missing';
        END IF;
        INSERT INTO links (id, issuer, subject, account, upstream, label, created_at, used_at, out_at)
            VALUES (v_id, x ->> 'issuer', x ->> 'subject', v_account, x ->> 'upstream', x ->> 'label',
                (x ->> 'created_at')::bigint, (x ->> 'used_at')::bigint, (x ->> 'out_at')::bigint)
            ON CONFLICT DO NOTHING;
        RETURN CASE WHEN NOT FOUND THEN 'moved' END;
    WHEN 'use_link' THEN
        UPDATE links l SET used_at = (x ->> 'at')::bigint
            WHERE l.id = v_id AND (l.out_at IS NULL OR l.out_at < (x ->> 'begun')::bigint);
        RETURN CASE WHEN NOT FOUND THEN 'moved' END;
    WHEN 'sign_out_link' THEN
        UPDATE links l SET out_at = greatest(coalesce(l.out_at, 0), (x ->> 'at')::bigint)
            WHERE l.issuer = x ->> 'issuer' AND l.subject = x ->> 'subject';
        RETURN NULL;
    WHEN 'remove_link' THEN
        DELETE FROM links l WHERE l.id = v_id AND l.account = v_account;
        RETURN CASE WHEN NOT FOUND THEN 'missing' END;
    WHEN 'insert_origin' THEN
        IF NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = v_id) THEN
            RETURN 'missing';
        END IF;
        INSERT INTO origins (session, issuer, subject, sid)
            VALUES (v_id, x ->> 'issuer', x ->> 'subject', x ->> 'sid') ON CONFLICT DO NOTHING;
        RETURN CASE WHEN NOT FOUND THEN 'moved' END;
    END CASE;
END $$;

CREATE FUNCTION plain_step_6(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN x ->> 'do' IN ('insert_link', 'use_link', 'sign_out_link', 'remove_link', 'insert_origin')
        THEN set_link(x) ELSE plain_step_5(x, p_at) END;
END $$;

-- What calls that, as it was otherwise: act_writes_6, act_6, commit_acts_6, commit_group_6.
DO $$
DECLARE
    names text[] := ARRAY['act_writes', 'act', 'commit_acts', 'commit_group'];
    called text[] := names || 'plain_step'::text;
    name text;
    other text;
    body text;
BEGIN
    FOREACH name IN ARRAY names LOOP
        SELECT pg_get_functiondef(p.oid) INTO STRICT body FROM pg_proc p
            WHERE p.proname = name || '_5' AND p.pronamespace = 'portcullis'::regnamespace;
        FOREACH other IN ARRAY called LOOP
            body := regexp_replace(body, '\m' || other || '_5\(', other || '_6(', 'g');
        END LOOP;
        EXECUTE body;
    END LOOP;
END $$;
