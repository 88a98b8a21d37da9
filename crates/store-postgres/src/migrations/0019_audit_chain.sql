-- The chain over audit records (domain::audit): a record's place and link, and the commitments to what may be erased of it, whose
-- salts go with the values.
ALTER TABLE events ADD COLUMN place bigint, ADD COLUMN link bytea, ADD COLUMN ip_seal bytea, ADD COLUMN ip_salt bytea,
    ADD COLUMN reason_seal bytea, ADD COLUMN reason_salt bytea;

-- Where it begins and ends, and its key, sealed under the master key. No row before it was begun.
CREATE TABLE audit_chain (
    one        int    PRIMARY KEY CHECK (one = 1),
    key        bytea  NOT NULL,
    start      bigint NOT NULL,
    start_link bytea  NOT NULL,
    start_mac  bytea  NOT NULL,
    head       bigint NOT NULL,
    head_link  bytea  NOT NULL
);

-- Records are sealed in a transaction of their own, beside the committers: no act waits for it. The chain's row is locked first;
-- a record that somebody is at is not waited for, since acts lock records first and then that row.
CREATE FUNCTION seal_records(x jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    UPDATE audit_chain c SET head = (x ->> 'head')::bigint, head_link = decode(x ->> 'head_link', 'hex')
        WHERE c.head = (x ->> 'from')::bigint AND c.head_link = decode(x ->> 'from_link', 'hex');
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    PERFORM 1 FROM events e WHERE e.id = ANY (ids(x -> 'ids')) FOR UPDATE SKIP LOCKED;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n <> jsonb_array_length(x -> 'ids') THEN
        PERFORM stop('moved');
    END IF;
    -- What was erased since it was read gets no salt.
    UPDATE events e SET place = s.place, link = decode(s.link, 'hex'), ip_seal = decode(s.ip_seal, 'hex'),
        ip_salt = CASE WHEN e.ip IS NOT NULL THEN decode(s.ip_salt, 'hex') END,
        reason_seal = decode(s.reason_seal, 'hex'),
        reason_salt = CASE WHEN e.reason IS NOT NULL THEN decode(s.reason_salt, 'hex') END
        FROM jsonb_to_recordset(x -> 'seals') AS s(id text, place bigint, link text, ip_seal text, ip_salt text,
            reason_seal text, reason_salt text)
        WHERE e.id = decode(s.id, 'hex') AND e.place IS NULL;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n <> jsonb_array_length(x -> 'seals') THEN
        PERFORM stop('moved');
    END IF;
    RETURN n;
END $$;

CREATE FUNCTION set_chain(x jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint := 0;
BEGIN
    CASE x ->> 'do'
    WHEN 'begin_chain' THEN
        INSERT INTO audit_chain (one, key, start, start_link, start_mac, head, head_link)
            VALUES (1, decode(x ->> 'key', 'hex'), (x ->> 'start')::bigint, decode(x ->> 'start_link', 'hex'),
                decode(x ->> 'start_mac', 'hex'), (x ->> 'head')::bigint, decode(x ->> 'head_link', 'hex'))
            ON CONFLICT DO NOTHING;
    WHEN 'prune_chain' THEN
        UPDATE audit_chain c SET start = (x ->> 'start')::bigint, start_link = decode(x ->> 'start_link', 'hex'),
            start_mac = decode(x ->> 'start_mac', 'hex')
            WHERE c.start = (x ->> 'from')::bigint AND c.start_link = decode(x ->> 'from_link', 'hex')
                AND c.head >= (x ->> 'start')::bigint;
    WHEN 'set_chain_key' THEN
        UPDATE audit_chain c SET key = decode(x ->> 'to_key', 'hex') WHERE c.key = decode(x ->> 'from_key', 'hex');
    END CASE;
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    IF x ->> 'do' = 'prune_chain' THEN
        DELETE FROM events e WHERE e.place <= (x ->> 'start')::bigint;
        GET DIAGNOSTICS n = ROW_COUNT;
    END IF;
    RETURN n;
END $$;

-- What is done when everything else of an act is written. It does what it did for whoever asks as before, but for two things: a
-- node of the release before deletes nothing that is sealed, and a salt goes with its address.
CREATE OR REPLACE FUNCTION prune_events(x jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
    v_before bigint := (x ->> 'before')::bigint;
    v_most bigint := (x ->> 'most')::bigint;
BEGIN
    CASE x ->> 'do'
    WHEN 'prune_events' THEN
        DELETE FROM events WHERE seq IN (SELECT e.seq FROM events e WHERE e.place IS NULL ORDER BY e.seq LIMIT v_most)
            AND at < v_before;
    WHEN 'forget_event_addresses' THEN
        UPDATE events SET ip = NULL, ip_salt = NULL WHERE seq IN (SELECT e.seq FROM events e
            WHERE e.ip IS NOT NULL AND e.at < v_before ORDER BY e.at, e.seq LIMIT v_most
            FOR UPDATE SKIP LOCKED);
    WHEN 'erase_records' THEN
        RETURN erase_records(x);
    ELSE
        RETURN set_chain(x);
    END CASE;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;
