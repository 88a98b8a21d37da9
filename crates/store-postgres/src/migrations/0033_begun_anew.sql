-- As before for whoever names no place up to which records go, and begins no chain anew, as the releases before.
CREATE OR REPLACE FUNCTION set_chain(x jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint := 0;
    v_start bigint := (x ->> 'start')::bigint;
BEGIN
    CASE x ->> 'do'
    WHEN 'begin_chain' THEN
        INSERT INTO audit_chain (one, key, start, start_link, start_mac, head, head_link)
            VALUES (1, decode(x ->> 'key', 'hex'), v_start, decode(x ->> 'start_link', 'hex'),
                decode(x ->> 'start_mac', 'hex'), (x ->> 'head')::bigint, decode(x ->> 'head_link', 'hex'))
            ON CONFLICT DO NOTHING;
    WHEN 'begin_anew' THEN
        UPDATE audit_chain c SET key = decode(x ->> 'key', 'hex'), start = v_start,
            start_link = decode(x ->> 'start_link', 'hex'), start_mac = decode(x ->> 'start_mac', 'hex'),
            head = (x ->> 'head')::bigint, head_link = decode(x ->> 'head_link', 'hex')
            WHERE c.head = (x ->> 'from')::bigint AND c.head_link = decode(x ->> 'from_link', 'hex');
    WHEN 'prune_chain' THEN
        UPDATE audit_chain c SET start = v_start, start_link = decode(x ->> 'start_link', 'hex'),
            start_mac = decode(x ->> 'start_mac', 'hex')
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
