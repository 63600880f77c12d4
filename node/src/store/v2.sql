-- Bundles leave the row that each message reads and writes.
CREATE TABLE contact_bundles (
    contact BLOB PRIMARY KEY REFERENCES contacts (fp) ON DELETE CASCADE,
    bundle BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO contact_bundles (contact, bundle) SELECT fp, bundle FROM contacts WHERE bundle IS NOT NULL;
ALTER TABLE contacts DROP COLUMN bundle
