-- How many groups each node has committed. A standby that took over without the last of them counts fewer than were
-- acknowledged, and the node knows.
CREATE TABLE committers (
    id      bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    commits bigint NOT NULL
) WITH (fillfactor = 50);

-- commit_group, counted. `known`: what was acknowledged to this node, in `epoch`; a database that has less writes nothing and
-- says so, unless it is founded anew with this group. The row of the count is locked first: only its own node takes it.
CREATE FUNCTION commit_group_2(g jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
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
    outcome := commit_group(g);
    RETURN outcome || jsonb_build_object('commits', v_commits, 'epoch', (SELECT m.epoch FROM meta m));
END $$;
