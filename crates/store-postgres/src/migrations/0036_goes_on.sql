-- Up to which place an earlier chain has left records, where one was begun anew; and that a chain goes on from a place, whatever was
-- seen beyond it (domain::audit::seen).
ALTER TABLE audit_chain ADD COLUMN start_old bigint;
ALTER TABLE audit_chain ADD COLUMN attested bigint;
ALTER TABLE audit_chain ADD COLUMN attested_place bigint;
ALTER TABLE audit_chain ADD COLUMN attested_link bytea;
ALTER TABLE audit_chain ADD COLUMN attested_mac bytea;

-- As before for whoever names nothing of it and attests nothing, as the releases before.
CREATE OR REPLACE FUNCTION set_chain(x jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint := 0;
    v_start bigint := (x ->> 'start')::bigint;
BEGIN
    CASE x ->> 'do'
    WHEN 'begin_chain' THEN
        INSERT INTO audit_chain (one, key, start, start_link, start_mac, head, head_link, start_old)
            VALUES (1, decode(x ->> 'key', 'hex'), v_start, decode(x ->> 'start_link', 'hex'),
                decode(x ->> 'start_mac', 'hex'), (x ->> 'head')::bigint, decode(x ->> 'head_link', 'hex'),
                (x ->> 'start_old')::bigint)
            ON CONFLICT DO NOTHING;
    WHEN 'begin_anew' THEN
        UPDATE audit_chain c SET key = decode(x ->> 'key', 'hex'), start = v_start,
            start_link = decode(x ->> 'start_link', 'hex'), start_mac = decode(x ->> 'start_mac', 'hex'),
            head = (x ->> 'head')::bigint, head_link = decode(x ->> 'head_link', 'hex'),
            start_old = (x ->> 'start_old')::bigint, attested = NULL, attested_place = NULL, attested_link = NULL,
            attested_mac = NULL
            WHERE c.head = (x ->> 'from')::bigint AND c.head_link = decode(x ->> 'from_link', 'hex');
    WHEN 'attest' THEN
        UPDATE audit_chain c SET attested = (x ->> 'number')::bigint, attested_place = (x ->> 'place')::bigint,
            attested_link = decode(x ->> 'link', 'hex'), attested_mac = decode(x ->> 'mac', 'hex')
            WHERE c.key = decode(x ->> 'key', 'hex');
    WHEN 'prune_chain' THEN
        UPDATE audit_chain c SET start = v_start, start_link = decode(x ->> 'start_link', 'hex'),
            start_mac = decode(x ->> 'start_mac', 'hex'), start_old = (x ->> 'start_old')::bigint
            WHERE c.start = (x ->> 'from')::bigint AND c.start_link = decode(x ->> 'from_link', 'hex')
                AND c.head >= v_start;
    WHEN 'set_chain_key' THEN
        UPDATE audit_chain c SET key = decode(x ->> 'to_key', 'hex') WHERE c.key = decode(x ->> 'from_key', 'hex');
    END CASE;
    IF NOT FOUND THEN
        PERFORM stop('moved');
    END IF;
    IF x ->> 'do' = 'prune_chain' THEN
        DELETE FROM events e WHERE e.place <= least((x ->> 'up_to')::bigint, v_start);
        GET DIAGNOSTICS n = ROW_COUNT;
    END IF;
    RETURN n;
END $$;
