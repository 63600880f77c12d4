-- What a stream has held, so that a receipt says what was read there, and not only how far.
ALTER TABLE outbox ADD COLUMN transcript BLOB;

-- Our streams: what they held up to what is acknowledged, and when we last began again because a
-- contact knew more of them than we do.
CREATE TABLE outgoing (
    contact BLOB PRIMARY KEY REFERENCES contacts (fp) ON DELETE CASCADE,
    transcript BLOB NOT NULL, again_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The contacts' streams: the one that began last, and the first place of it that has not arrived.
-- Those before it are over.
CREATE TABLE incoming (
    contact BLOB PRIMARY KEY REFERENCES contacts (fp) ON DELETE CASCADE,
    stream INTEGER NOT NULL, next INTEGER NOT NULL, transcript BLOB NOT NULL
) STRICT, WITHOUT ROWID;
-- Contacts of whose stream something could not be read, and how often it has been asked for.
CREATE TABLE missing (
    contact BLOB PRIMARY KEY REFERENCES contacts (fp) ON DELETE CASCADE, asked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO incoming SELECT contact, stream, next, zeroblob(16) FROM streams AS s
    WHERE used = (SELECT max(used) FROM streams WHERE contact = s.contact);
DROP TABLE streams;
DELETE FROM meta WHERE key = 'stream_used';

-- A message has a nonce in front, which its name comes from: those that are here keep their names. What
-- was encrypted in another form is encrypted again.
UPDATE history SET body = CAST(id || body AS BLOB);
UPDATE outbox SET content = CAST(id || content AS BLOB) WHERE id IS NOT NULL;
UPDATE outbox SET inner = NULL, parked_instance = NULL, parked_until = NULL
