-- Up to which place an earlier chain has left records, where one was begun anew; and that a chain goes on from a place, whatever was
-- seen beyond it (domain::audit::seen).
ALTER TABLE audit_chain ADD COLUMN start_old INTEGER;
ALTER TABLE audit_chain ADD COLUMN attested INTEGER;
ALTER TABLE audit_chain ADD COLUMN attested_place INTEGER;
ALTER TABLE audit_chain ADD COLUMN attested_link BLOB;
ALTER TABLE audit_chain ADD COLUMN attested_mac BLOB;
