-- Small facts: who this store belongs to, counters, the ratchet account.
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- Rendezvous peers' keys, as first seen or as given in an address.
CREATE TABLE pins (
    host TEXT NOT NULL, port INTEGER NOT NULL, key BLOB NOT NULL,
    PRIMARY KEY (host, port)
) STRICT, WITHOUT ROWID;

-- Prekey bundles that may still be sealed to, with their secrets.
CREATE TABLE bundles (
    seq INTEGER PRIMARY KEY, secrets BLOB NOT NULL, encoded BLOB NOT NULL,
    one_time_keys BLOB NOT NULL, created INTEGER NOT NULL
) STRICT;

CREATE TABLE contacts (
    fp BLOB PRIMARY KEY,
    device INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE,
    given_name TEXT NOT NULL,
    note TEXT NOT NULL,
    state INTEGER NOT NULL,
    peers BLOB NOT NULL,           -- postcard, Vec<PeerHint>
    cap_mine BLOB NOT NULL,        -- the reach capability that we give them
    cap_theirs BLOB,               -- the one that they gave us
    ratchet_key BLOB,              -- their Olm identity key, signed by their passport
    introduced INTEGER NOT NULL,   -- whether an introduction proved it, also post-quantum
    stream INTEGER NOT NULL,       -- our stream to them
    next_seq INTEGER NOT NULL,     -- the next place in it
    checked_at INTEGER, checked_how INTEGER,
    attempts BLOB NOT NULL,        -- failed safety codes
    bundle BLOB, bundle_seq INTEGER NOT NULL, bundle_at INTEGER NOT NULL,
    ack_due INTEGER NOT NULL,
    resend_at INTEGER NOT NULL,    -- when a resend was last asked for
    added INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX contacts_capability ON contacts (cap_mine);

-- Ratchet sessions, at most a few for each contact; the highest `used` speaks.
CREATE TABLE sessions (
    contact BLOB NOT NULL REFERENCES contacts (fp) ON DELETE CASCADE,
    id TEXT NOT NULL, state BLOB NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (contact, id)
) STRICT, WITHOUT ROWID;

-- What is accepted for sending and not acknowledged. `inner` is made once and never again for the
-- same session.
CREATE TABLE outbox (
    contact BLOB NOT NULL REFERENCES contacts (fp) ON DELETE CASCADE,
    seq INTEGER NOT NULL, kind INTEGER NOT NULL, content BLOB NOT NULL,
    id BLOB,                       -- of a message; the others have no name
    inner BLOB,
    parked_instance BLOB, parked_until INTEGER,
    PRIMARY KEY (contact, seq)
) STRICT, WITHOUT ROWID;

-- Streams that arrive: everything below `next` is in `history`, for ever.
CREATE TABLE streams (
    contact BLOB NOT NULL REFERENCES contacts (fp) ON DELETE CASCADE,
    stream INTEGER NOT NULL, next INTEGER NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (contact, stream)
) STRICT, WITHOUT ROWID;

-- What was said, both ways.
CREATE TABLE history (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    contact BLOB NOT NULL REFERENCES contacts (fp) ON DELETE CASCADE,
    outgoing INTEGER NOT NULL, seq INTEGER NOT NULL, id BLOB NOT NULL UNIQUE, client_id TEXT,
    at INTEGER NOT NULL, body BLOB NOT NULL, state INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX history_client_id ON history (contact, client_id) WHERE client_id IS NOT NULL;
CREATE INDEX history_contact ON history (contact, no);

-- Durable events, for programs that read on where they stopped.
CREATE TABLE events (no INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL) STRICT;

-- Safety-code exchanges that run, one for each contact.
CREATE TABLE safety (
    contact BLOB PRIMARY KEY REFERENCES contacts (fp) ON DELETE CASCADE,
    exchange BLOB NOT NULL, state BLOB NOT NULL
) STRICT, WITHOUT ROWID
