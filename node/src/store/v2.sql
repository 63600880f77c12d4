-- Bundles leave the row that each message reads and writes.
CREATE TABLE contact_bundles (
    contact BLOB PRIMARY KEY REFERENCES contacts (fp) ON DELETE CASCADE,
    bundle BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO contact_bundles (contact, bundle) SELECT fp, bundle FROM contacts WHERE bundle IS NOT NULL;
ALTER TABLE contacts DROP COLUMN bundle;

-- Until it is encrypted, a message can be cancelled, or its time may be over. Afterwards it may have
-- left, also when it is to be encrypted again.
ALTER TABLE outbox ADD COLUMN encrypted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN expires INTEGER;
UPDATE outbox SET encrypted = 1 WHERE inner IS NOT NULL;
CREATE INDEX outbox_expires ON outbox (expires) WHERE expires IS NOT NULL
