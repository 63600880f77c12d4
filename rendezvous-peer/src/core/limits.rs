//! Every limit of the peer, with its reason. Requests beyond one are answered with a refusal,
//! datagrams are dropped; nothing that has been accepted is thrown out before its time.

use std::time::Duration;

use halloo_wire::limits::{MAX_ONE_TIME_KEYS, MAX_REQUEST};

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back in a second; 0 switches the limit off.
    pub per_second: u32,
    /// Tokens in a full bucket.
    pub burst: u32,
}

/// How much of one lane of one mailbox may be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Envelopes.
    pub envelopes: usize,
    /// Bytes of envelopes.
    pub bytes: usize,
}

/// The limits of a peer's table. [`Limits::default`] is right for a machine with 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that rows, bundles, capabilities and mailboxes may take together. The program itself and
    /// its connections come on top: [`process_memory`](Self::process_memory).
    pub memory: usize,
    /// Bytes of them that may be kept for the devices of one network (/24 or /56). Devices count where
    /// they registered first.
    pub memory_per_source: usize,
    /// Devices registered at a time. A parked row takes 0.9 kB, with a bundle and 50 one-time keys
    /// 4.0 kB (measured), so that all of them take half of the memory cap and mailboxes find room
    /// beside them.
    pub registrations: usize,
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time from one network (/24 or /56), so that one cannot take all places.
    pub connections_per_source: usize,
    /// Reach capabilities of one device: one for each contact.
    pub capabilities: usize,
    /// The contacts' lane of a mailbox: a thousand short messages.
    pub contacts: Quota,
    /// The strangers' lane: some contact requests of the 16 KiB class, which carry an
    /// introduction.
    pub strangers: Quota,
    /// How long an envelope waits. Senders keep their own copy and drop it again.
    pub envelope_ttl: Duration,
    /// How long a registration outlives the last visit: the longest validity of a prekey bundle.
    pub registration_ttl: Duration,
    /// Requests on one connection.
    pub connection_rate: Rate,
    /// Requests and connections from one network.
    pub source_rate: Rate,
    /// Echo requests from one address. Learning how a NAT behaves takes a dozen.
    pub echo_rate: Rate,
    /// Relay channels at a time; 0 switches the relay off. Each takes half a kilobyte of the
    /// memory cap.
    pub relay_channels: usize,
    /// Relay channels of one callee: so many contacts can reach it through the relay at a time.
    pub relay_channels_per_callee: usize,
    /// Relay channels that callers from one network (/24 or /56) may hold.
    pub relay_channels_per_source: usize,
    /// Bytes that one end of a channel may send: 16 Mbit/s carry a video call, and the burst a
    /// photograph at once. What is larger finds a direct path, or takes its time.
    pub relay_rate: Rate,
    /// Bytes that one network (/24 or /56) may send through the relay.
    pub relay_source_rate: Rate,
    /// How long a parked device may be silent before it is rung no more. Devices send keepalives
    /// three times as often.
    pub parked_silence: Duration,
    /// Parked devices that are told to come back in a second, when this peer does not know them
    /// because it was restarted.
    pub return_rate: u32,
    /// Incident records kept; the oldest go first.
    pub incidents: usize,
    /// Over how long the nodes of a stopping peer are told to spread their return.
    pub drain_spread: Duration,
}

/// Bytes of an envelope that one token pays for: a drop of 16 KiB costs five times a knock.
pub const BYTES_PER_TOKEN: usize = 4096;
/// Tokens that a connection costs its network: the handshake is the dearest thing that a stranger
/// can ask for.
pub const CONNECTION_COST: u32 = 5;
/// Tokens that a page of envelopes costs.
pub const PEEK_COST: u32 = 4;
/// The dearest single request. No burst may be smaller, or it could never be made.
pub const MAX_COST: u32 = 1 + (MAX_REQUEST / BYTES_PER_TOKEN) as u32;
/// The largest batch of frames that the system hands over at once. No burst of the relay may be
/// smaller, or fast senders would lose everything.
pub const MAX_RELAY_BATCH: u32 = 64 << 10;
/// Channels that one capability opens at a time: one for each device of a contact, and those that
/// its earlier runs have left. One more takes the place of the one that was silent the longest.
pub const CHANNELS_PER_CAPABILITY: usize = 4;

/// Identities on a list of those who may be hosted: 30 MB.
pub const MAX_ALLOWED: usize = 1_000_000;
/// Invites of which the peer remembers who was the first to use them; the memory cap may allow less.
pub const MAX_INVITES_IN_USE: usize = 1 << 20;

// `given` in a published bundle is a bit set of 64.
const _: () = assert!(MAX_ONE_TIME_KEYS <= 64);

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 300 << 20,
            memory_per_source: 75 << 20,
            registrations: 32_768,
            connections: 4_096,
            connections_per_source: 1_024,
            capabilities: 1_024,
            contacts: Quota { envelopes: 1_024, bytes: 4 << 20 },
            strangers: Quota { envelopes: 32, bytes: 640 << 10 },
            envelope_ttl: Duration::from_secs(72 * 3600),
            registration_ttl: Duration::from_secs(14 * 24 * 3600),
            connection_rate: Rate { per_second: 500, burst: 5_000 },
            source_rate: Rate { per_second: 2_000, burst: 20_000 },
            echo_rate: Rate { per_second: 20, burst: 40 },
            relay_channels: 8_192,
            relay_channels_per_callee: 64,
            relay_channels_per_source: 512,
            relay_rate: Rate { per_second: 2_000_000, burst: 8_000_000 },
            relay_source_rate: Rate { per_second: 16_000_000, burst: 64_000_000 },
            parked_silence: Duration::from_secs(600),
            return_rate: 500,
            incidents: 256,
            drain_spread: Duration::from_secs(10),
        }
    }
}

/// Why some limits cannot work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// Less memory than one device with one envelope takes.
    #[error("the memory cap is too small: {MIN_MEMORY} bytes are the least")]
    Memory,
    /// No connection or no registration would be allowed.
    #[error("at least one connection and one registration must be allowed")]
    Nobody,
    /// A bucket that the dearest request never fits into.
    #[error("a burst below {MAX_COST} would never allow the largest request")]
    Burst,
    /// A bucket that a batch of relay frames never fits into.
    #[error("a burst below {MAX_RELAY_BATCH} bytes would never let a batch of relay frames pass")]
    RelayBurst,
    /// Devices could not keep up with it, or an answer could not say it.
    #[error("parked devices may be silent for between 30 seconds and 18 hours")]
    Silence,
    /// Nobody would ever come back.
    #[error("at least one device must be told to come back in a second")]
    Return,
    /// A span that rounds to nothing, or beyond what an answer can say.
    #[error("a time to live must be between one second and 68 years")]
    TimeToLive,
}

/// The least memory cap that makes sense: one mailbox with one large envelope.
pub const MIN_MEMORY: usize = 128 << 10;

/// What the program takes without a table and without connections, with what its allocator keeps
/// after a burst (measured: 9 MB before the first connection, 17 after 64 handshakes at once).
pub const PROGRAM_MEMORY: usize = 20 << 20;
/// What a connection takes (measured: 37 kB in QUIC and TLS), with a request that is being read.
pub const CONNECTION_MEMORY: usize = 48 << 10;

impl Limits {
    /// Bytes of memory that a process with these limits takes at most.
    pub fn process_memory(&self) -> usize {
        self.memory.saturating_add(Self::beside_the_table(self.connections))
    }

    /// Bytes that the program and so many connections take.
    pub fn beside_the_table(connections: usize) -> usize {
        connections.saturating_mul(CONNECTION_MEMORY).saturating_add(PROGRAM_MEMORY)
    }

    /// Checks that a peer can work with these limits.
    ///
    /// # Errors
    /// [`LimitsError`] says which limit cannot be.
    pub fn check(&self) -> Result<(), LimitsError> {
        if self.memory < MIN_MEMORY {
            return Err(LimitsError::Memory);
        }
        if self.connections.min(self.connections_per_source).min(self.registrations) == 0 {
            return Err(LimitsError::Nobody);
        }
        for rate in [self.connection_rate, self.source_rate] {
            if rate.per_second > 0 && rate.burst < MAX_COST {
                return Err(LimitsError::Burst);
            }
        }
        for rate in [self.relay_rate, self.relay_source_rate] {
            if rate.per_second > 0 && rate.burst < MAX_RELAY_BATCH {
                return Err(LimitsError::RelayBurst);
            }
        }
        if !(30..=u64::from(u16::MAX)).contains(&self.parked_silence.as_secs()) {
            return Err(LimitsError::Silence);
        }
        if self.return_rate == 0 {
            return Err(LimitsError::Return);
        }
        for ttl in [self.envelope_ttl, self.registration_ttl] {
            if !(1..1 << 31).contains(&ttl.as_secs()) {
                return Err(LimitsError::TimeToLive);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_together() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn limits_that_cannot_work_are_named() {
        let with = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits.check()
        };
        assert_eq!(with(|l| l.memory = 1), Err(LimitsError::Memory));
        assert_eq!(with(|l| l.connections = 0), Err(LimitsError::Nobody));
        assert_eq!(with(|l| l.source_rate.burst = 1), Err(LimitsError::Burst));
        assert_eq!(with(|l| l.relay_rate.burst = 1), Err(LimitsError::RelayBurst));
        assert_eq!(with(|l| l.envelope_ttl = Duration::ZERO), Err(LimitsError::TimeToLive));
        assert_eq!(with(|l| l.parked_silence = Duration::from_secs(29)), Err(LimitsError::Silence));
        assert_eq!(with(|l| l.return_rate = 0), Err(LimitsError::Return));
    }
}
