-- The same functions, cheaper. A function in SQL that cannot be inlined is parsed and planned again in every transaction that
-- calls it; one in PL/pgSQL is kept by the connection, and what it computes without a table needs no executor.

-- A list of ids.
CREATE OR REPLACE FUNCTION ids(list jsonb) RETURNS bytea[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF list IS NULL OR list = '[]' THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT decode(value, 'hex') FROM jsonb_array_elements_text(list));
END $$;

-- An id as text (wire::ids): Crockford's base32, 26 characters.
CREATE OR REPLACE FUNCTION id_text(prefix text, id bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    bits bit varying := B'00' || ('x' || encode(id, 'hex'))::bit(128);
    written text := prefix || '_';
BEGIN
    IF id IS NULL THEN
        RETURN NULL;
    END IF;
    FOR n IN 0..25 LOOP
        written := written
            || substr('0123456789abcdefghjkmnpqrstvwxyz', substring(bits FROM n * 5 + 1 FOR 5)::bit(5)::int + 1, 1);
    END LOOP;
    RETURN written;
END $$;

-- One part of a link: length, then bytes.
CREATE OR REPLACE FUNCTION link_part(part text) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    b bytea := convert_to(part, 'UTF8');
BEGIN
    RETURN int8send(octet_length(b)) || b;
END $$;
