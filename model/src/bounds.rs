//! How large a world is.

use std::fmt;

/// What can go wrong. Each costs one of [`Bounds::faults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A node dies and begins again.
    pub crash: bool,
    /// The peer dies and begins again, with another instance and nothing else.
    pub restart: bool,
    /// An envelope is lost at the peer: dropped, driven out, or its time is over.
    pub expire: bool,
    /// The connection breaks, with everything that is on its way.
    pub cut: bool,
    /// An envelope with any inner message that ever left is in the mailbox again.
    pub replay: bool,
    /// A node loses the keys of its sessions.
    pub lose_keys: bool,
}

impl Faults {
    /// None of them.
    pub const NONE: Self = Self {
        crash: false,
        restart: false,
        expire: false,
        cut: false,
        replay: false,
        lose_keys: false,
    };
    /// All of them.
    pub const ALL: Self =
        Self { crash: true, restart: true, expire: true, cut: true, replay: true, lose_keys: true };
}

/// How large a world is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Messages that each side's program sends.
    pub messages: [u8; 2],
    /// Pings that each side sends, beside acknowledgements and resends.
    pub pings: [u8; 2],
    /// Whether there can be a connection.
    pub link: bool,
    /// Whether there is a rendezvous peer.
    pub peer: bool,
    /// Whether the step in which the program hears of a message is one of its own.
    pub tell: bool,
    /// What can go wrong.
    pub kinds: Faults,
    /// How often.
    pub faults: u8,
    /// How often everything may stand still until receipts have run out and a resend may be asked
    /// for again.
    pub waits: u8,
    /// Skipped keys that a session keeps.
    pub skipped: u32,
    /// Whether steps are taken in every order also where it makes no difference.
    pub every_order: bool,
}

impl Bounds {
    /// One side sends, on every path; nothing goes wrong.
    pub const fn new(messages: u8) -> Self {
        Self {
            messages: [messages, 0],
            pings: [0, 0],
            link: true,
            peer: true,
            tell: false,
            kinds: Faults::NONE,
            faults: 0,
            waits: 0,
            skipped: 1,
            every_order: false,
        }
    }

    /// The same without a connection.
    #[must_use]
    pub const fn by_peer(self) -> Self {
        Self { link: false, ..self }
    }

    /// The same without a peer.
    #[must_use]
    pub const fn by_link(self) -> Self {
        Self { peer: false, ..self }
    }

    /// The same with faults, and two pauses for each.
    #[must_use]
    pub const fn with(self, faults: u8, kinds: Faults) -> Self {
        Self { faults, kinds, waits: 2 * faults, ..self }
    }

    /// The same with messages from both sides.
    #[must_use]
    pub const fn both(self, messages: [u8; 2]) -> Self {
        Self { messages, ..self }
    }

    /// The same with pings.
    #[must_use]
    pub const fn pinging(self, pings: [u8; 2]) -> Self {
        Self { pings, ..self }
    }

    /// The same with a step for telling the program.
    #[must_use]
    pub const fn telling(self) -> Self {
        Self { tell: true, ..self }
    }

    /// The same in every order, also where it makes no difference.
    #[must_use]
    pub const fn in_every_order(self) -> Self {
        Self { every_order: true, ..self }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.crash, "crash"),
            (self.restart, "restart"),
            (self.expire, "lost envelope"),
            (self.cut, "cut"),
            (self.replay, "replay"),
            (self.lose_keys, "lost keys"),
        ];
        let names: Vec<_> = kinds.into_iter().filter(|k| k.0).map(|k| k.1).collect();
        write!(f, "{}", names.join(", "))
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, pings, faults, kinds, waits, skipped, .. } = self;
        write!(
            f,
            "messages {} and {}, pings {} and {}",
            messages[0], messages[1], pings[0], pings[1]
        )?;
        write!(f, "; {faults} faults of [{kinds}], {waits} pauses, {skipped} skipped keys")
    }
}
