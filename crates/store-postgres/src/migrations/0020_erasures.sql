-- Tombstones whose audit records from before they became one still have what can be erased of them: which were looked at, and
-- which is the last one.
CREATE TABLE erasures (
    account bytea  PRIMARY KEY,
    after   bigint NOT NULL,
    last    bigint NOT NULL
);

CREATE FUNCTION erase_records(x jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    e erasures;
    v_most bigint := (x ->> 'most')::bigint;
    v_rows bigint[];
    v_free bigint[];
BEGIN
    SELECT t.* INTO e FROM erasures t ORDER BY t.account LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    v_rows := ARRAY(SELECT t.seq FROM events t WHERE t.account = e.account AND t.seq > e.after AND t.seq <= e.last
        ORDER BY t.seq LIMIT v_most);
    v_free := ARRAY(SELECT t.seq FROM events t WHERE t.seq = ANY (v_rows) FOR UPDATE SKIP LOCKED);
    UPDATE events t SET ip = NULL, ip_salt = NULL, reason = NULL, reason_salt = NULL
        WHERE t.seq = ANY (v_free) AND (t.ip IS NOT NULL OR t.reason IS NOT NULL);
    -- Somebody is at one of them: the next step looks at these again.
    IF cardinality(v_free) < cardinality(v_rows) THEN
        RETURN cardinality(v_free);
    END IF;
    IF cardinality(v_rows) < v_most THEN
        DELETE FROM erasures t WHERE t.account = e.account;
        RETURN cardinality(v_rows) + 1;
    END IF;
    UPDATE erasures t SET after = coalesce(v_rows[cardinality(v_rows)], e.after) WHERE t.account = e.account;
    RETURN cardinality(v_rows);
END $$;

-- Also where a node of an earlier release makes a tombstone. One row, whatever the number of records.
CREATE FUNCTION leave_erasure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO erasures (account, after, last) SELECT NEW.id, 0, coalesce(max(t.seq), 0) FROM events t
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER leave_erasure_with_accounts AFTER UPDATE OF status ON accounts FOR EACH ROW
    WHEN (NEW.status = 'deleted') EXECUTE FUNCTION leave_erasure();
