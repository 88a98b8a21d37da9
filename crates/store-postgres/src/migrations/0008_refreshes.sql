-- A group of nothing but refreshes, which is most of what is committed: no JSON to read, and one statement for all rows. What a
-- group costs besides its acts is paid more often where several nodes have smaller ones.

-- The ids one by one. A plan for a list of ids is made for its length, and so made anew for each call that has a short one, at
-- several times what the call itself costs; of this function the planner expects one id always, and keeps its plan.
CREATE FUNCTION each_id(list bytea[]) RETURNS SETOF bytea LANGUAGE plpgsql IMMUTABLE ROWS 1 AS $$
DECLARE
    id bytea;
BEGIN
    FOREACH id IN ARRAY list LOOP
        RETURN NEXT id;
    END LOOP;
END $$;

-- The same for the places of a list, from 1.
CREATE FUNCTION each_place(places int) RETURNS SETOF int LANGUAGE plpgsql IMMUTABLE ROWS 1 AS $$
BEGIN
    FOR place IN 1 .. places LOOP
        RETURN NEXT place;
    END LOOP;
END $$;

-- commit_group_2 for acts that are each a new state of a family (set_family), or one handing out (hand_out), where `p_secret` is
-- null: of different grants in the order of their ids. `p_known` is what was acknowledged to this node, in `p_epoch`. No
-- `commits`: the database lacks some, `there` are as many, and nothing was written. `done`: the places of those that were
-- written; the others are conflicts, and those among them whose grant is there are in `moved`.
--
-- The update locks a row, waits for whoever has it, and asks again what the row must be: so no lock comes before it, and the
-- counter's lock comes last as ever. Whoever has that alone meanwhile has locked all rows that he changes, and comes before
-- this group, which relies on nothing but its own rows.
CREATE FUNCTION commit_refreshes(p_by bytea, p_known bigint, p_epoch bigint, p_now bigint, p_grant bytea[], p_counter bigint[],
    p_predecessor bigint[], p_secret bytea[], p_key bigint[], p_of_epoch bigint[], p_to bigint[], p_made_at bigint[],
    p_handed_at bigint[], p_handouts bigint[], p_to_predecessor bigint[],
    OUT at bigint, OUT done int[], OUT moved int[], OUT commits bigint, OUT there bigint, OUT epoch bigint)
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE committers c SET commits = c.commits + 1 FROM meta m
        WHERE c.id = p_by AND c.commits >= p_known AND m.epoch = p_epoch AND p_known > 0
        RETURNING c.commits, m.epoch INTO commits, epoch;
    IF commits IS NULL THEN
        epoch := (SELECT m.epoch FROM meta m);
        IF p_known = 0 OR epoch > p_epoch THEN
            INSERT INTO committers AS c (id, commits) VALUES (p_by, 1)
                ON CONFLICT (id) DO UPDATE SET commits = c.commits + 1 RETURNING c.commits INTO commits;
        ELSE
            there := (SELECT c.commits FROM committers c WHERE c.id = p_by);
            RETURN;
        END IF;
    END IF;
    WITH written AS (
        UPDATE grants g SET secret = coalesce(p_secret[i.n], g.secret), mac_key = coalesce(p_key[i.n], g.mac_key),
            epoch = coalesce(p_of_epoch[i.n], g.epoch), counter = coalesce(p_to[i.n], g.counter),
            made_at = coalesce(p_made_at[i.n], g.made_at),
            handed_at = CASE WHEN p_secret[i.n] IS NULL THEN greatest(g.handed_at, p_handed_at[i.n]) ELSE p_handed_at[i.n] END,
            handouts = coalesce(p_handouts[i.n], g.handouts + 1),
            predecessor = CASE WHEN p_secret[i.n] IS NULL THEN g.predecessor ELSE p_to_predecessor[i.n] END
            FROM each_place(cardinality(p_grant)) i (n)
            WHERE g.id = p_grant[i.n] AND g.counter = p_counter[i.n]
                AND (p_secret[i.n] IS NULL OR g.predecessor IS NOT DISTINCT FROM p_predecessor[i.n])
            RETURNING i.n)
        SELECT array_agg(w.n) INTO done FROM written w;
    IF cardinality(done) IS DISTINCT FROM cardinality(p_grant) THEN
        moved := ARRAY(SELECT i.n FROM each_place(cardinality(p_grant)) i (n) JOIN grants g ON g.id = p_grant[i.n]);
    END IF;
    PERFORM pg_advisory_xact_lock_shared(1349481076, 1);
    at := coalesce(p_now, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);
END $$;
