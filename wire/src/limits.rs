//! Every limit of the wire, with its reason. What each side does when a limit is reached stands
//! beside the type that it limits.

/// Longest name of a host in an address: the limit of the domain name system (RFC 1035, 2.3.4).
pub const MAX_HOST: usize = 253;
/// Rendezvous peers that one identity may list. Senders try them in order.
pub const MAX_PEERS: usize = 3;
/// Longest name that a person gives herself, in bytes of UTF-8.
pub const MAX_NAME: usize = 64;
/// Longest note in a contact request, in bytes of UTF-8.
pub const MAX_NOTE: usize = 280;
/// Longest text message, in bytes of UTF-8. Larger things go through a channel.
pub const MAX_TEXT: usize = 32 * 1024;
/// Longest content of one end-to-end message, encoded.
pub const MAX_CONTENT: usize = MAX_TEXT + 64;

/// Longest inner message: content, its headers, the ratchet's overhead and, once per contact, the
/// post-quantum introduction of 5.5 kB.
pub const MAX_INNER: usize = 48 * 1024;
/// Smallest padded size of what is sealed.
pub const CLASS_SMALL: usize = 1024;
/// Second padded size.
pub const CLASS_MEDIUM: usize = 4 * 1024;
/// Third padded size; above it, sizes follow PADME.
pub const CLASS_LARGE: usize = 16 * 1024;
/// Largest padded size. A Noise message may have 65,535 bytes.
pub const MAX_PADDED: usize = 52 * 1024;

/// Largest envelope that a peer keeps.
pub const MAX_ENVELOPE: usize = MAX_PADDED + crate::envelope::OVERHEAD;
/// Largest prekey bundle, encoded.
pub const MAX_BUNDLE: usize = 2 * 1024;
/// Largest passport certificate, DER.
pub const MAX_PASSPORT: usize = 1024;
/// One-time keys in one publication. vodozemac recommends 50 (half of what an account keeps).
pub const MAX_ONE_TIME_KEYS: usize = 50;
/// Capabilities in one grant or revoke request.
pub const MAX_GRANT: usize = 64;
/// Sealed contact card that a peer hands to the holder of a capability, or sealed candidates in a
/// knock: 8 candidates of 20 bytes, a verdict and the AEAD's overhead fit.
pub const MAX_SEALED_CARD: usize = 512;
/// Candidates in one knock or card.
pub const MAX_CANDIDATES: usize = 8;
/// QUIC datagrams in one knock: a first flight has two or three.
pub const MAX_KNOCK_DATAGRAMS: usize = 4;
/// Addresses that a node shows to be its own beside the one that the peer sees: one of the other
/// family, a mapped port, and one to spare.
pub const MAX_ATTESTED: usize = 3;
/// Envelope ids in one acknowledgement.
pub const MAX_ACK_IDS: usize = 1024;

/// Largest request from a node to a peer: a knock with an envelope and a first flight.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Largest answer from a peer: a page of waiting envelopes.
pub const MAX_RESPONSE: usize = 1024 * 1024;
/// Bytes of envelopes in one page, so that the answer stays below [`MAX_RESPONSE`].
pub const MAX_PAGE: usize = MAX_RESPONSE - 64 * 1024;
/// Largest push from a peer to a node: one envelope.
pub const MAX_PUSH: usize = 64 * 1024;
/// Largest frame on a message stream between two nodes.
pub const MAX_NODE_FRAME: usize = 64 * 1024;
/// Longest name of a channel.
pub const MAX_CHANNEL_NAME: usize = 64;

/// Largest datagram that is not QUIC: what one Ethernet frame carries over IPv4 and UDP.
pub const MAX_DATAGRAM: usize = 1472;
/// Largest datagram of a parked registration: what every path carries over IPv6 and UDP.
pub const MAX_PARKED: usize = 1232;
/// Datagrams in which one ring comes.
pub const MAX_RING_PARTS: u8 = 4;
/// Envelopes that one keepalive lets the peer forget.
pub const MAX_TAKEN: usize = 16;
/// Largest probe. Probes are the smallest thing that opens a hole, so that they cannot amplify.
pub const MAX_PROBE: usize = 80;
