-- Nothing is proven any more: by a session, by the cookie that it had before, and by a grant (domain::proof, Proof::unknown).
CREATE FUNCTION unprove(x jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sessions s SET auth_time = (x ->> 'at')::bigint, amr = x ->> 'amr', old_amr = x ->> 'old_amr',
        old_auth_time = CASE WHEN s.old_cookie IS NOT NULL THEN (x ->> 'at')::bigint END
        WHERE s.id = decode(x ->> 'id', 'hex');
    IF NOT FOUND THEN
        RETURN 'missing';
    END IF;
    IF x ->> 'grant' IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE grants g SET auth_time = (x ->> 'at')::bigint, amr = x ->> 'amr' WHERE g.id = decode(x ->> 'grant', 'hex');
    RETURN CASE WHEN NOT FOUND THEN 'missing' END;
END $$;

-- As before for whoever sends no such step, as the releases before.
CREATE OR REPLACE FUNCTION plain_step_6(x jsonb, p_at bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN x ->> 'do' = 'unprove' THEN unprove(x)
        WHEN x ->> 'do' IN ('set_network', 'put_memory', 'draw') THEN set_risk(x, p_at)
        WHEN x ->> 'do' IN ('insert_link', 'use_link', 'sign_out_link', 'remove_link', 'insert_origin') THEN set_link(x)
        ELSE plain_step_5(x, p_at) END;
END $$;
