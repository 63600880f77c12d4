//! What a world looks like and what happens in it.

mod random;

use std::time::Duration;

use crate::bug::Bug;
use crate::nat_box::BoxConfig;

/// A world, and what happens in it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Everything that is drawn at random while it runs.
    pub seed: u64,
    /// Where the two nodes are. The first one calls.
    pub sites: [Site; 2],
    /// How the sites lie to each other.
    pub near: Near,
    /// Whether the two are at home at different rendezvous peers.
    pub two_homes: bool,
    /// One-way delay between the rendezvous peers and the middle of the internet.
    pub peer_delay: Duration,
    /// What happens to packets on the access links.
    pub faults: Faults,
    /// Whether the nodes have enough to send that a birthday search is worth it.
    pub bulk: bool,
    /// What happens when, by time since the beginning.
    pub steps: Vec<(Duration, Step)>,
    /// How long it goes on.
    pub end: Duration,
}

/// Where a node is.
#[derive(Debug, Clone)]
pub struct Site {
    /// The boxes between it and the internet, the nearest first.
    pub boxes: Vec<BoxConfig>,
    /// One-way delay between the outermost box, or the node, and the middle of the internet.
    pub delay: Duration,
    /// Whether the node has an IPv4 address.
    pub ipv4: bool,
    /// Whether the node has an IPv6 address.
    pub ipv6: bool,
    /// Whether its addresses are never told.
    pub relay_only: bool,
    /// Whether it consents to a birthday search.
    pub birthday: bool,
    /// Whether its router maps a port to it.
    pub maps_port: bool,
    /// Whether it claims the bystander's addresses for its own.
    pub lies: bool,
    /// What is broken in the node on purpose.
    pub bug: Bug,
}

/// How two sites lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Near {
    /// Anywhere in the internet.
    Apart,
    /// In one local network, behind the first site's boxes.
    SameLan,
    /// Behind one carrier's box, each with its own boxes.
    SameCarrier(BoxConfig),
}

/// What happens to packets on the access links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Packets of 1,000 that are lost on each link.
    pub loss: u16,
    /// Packets of 1,000 that arrive twice.
    pub duplicate: u16,
    /// Packets of 1,000 that others overtake, by up to 30 ms.
    pub reorder: u16,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A node knocks at the other, with a first message.
    Dial(usize),
    /// A node begins or ends to talk.
    Talk(usize, bool),
    /// From here on silence counts, or does not.
    Listen(bool),
    /// What a node sends to the other directly is lost on the way.
    CutDirect(usize),
    /// Everything passes again.
    Heal,
    /// A box, counted from the node of a site, restarts, if there is one.
    Flush(usize, usize),
    /// The outermost box of a site, if it has one, gets another address.
    Renumber(usize),
    /// A node moves to another network, with these boxes.
    Move(usize, Vec<BoxConfig>),
    /// All links of a node go down, or up again.
    Plug(usize, bool),
    /// A rendezvous peer loses its memory.
    RestartPeer(usize),
    /// Note of where datagrams go at this moment.
    Look,
}

/// When the first node knocks: by then both have registered and know the NAT in front of them.
pub const DIAL_AT: Duration = Duration::from_secs(4);

impl Scenario {
    /// Two sites in the internet, at 25 ms from its middle, without faults: a call at
    /// [`DIAL_AT`] and four seconds of talk.
    pub fn pair(seed: u64, one: Vec<BoxConfig>, two: Vec<BoxConfig>) -> Self {
        let second = Duration::from_secs;
        Self {
            seed,
            sites: [Site::behind(one), Site::behind(two)],
            near: Near::Apart,
            two_homes: false,
            peer_delay: Duration::ZERO,
            faults: Faults::default(),
            bulk: true,
            steps: vec![
                (DIAL_AT, Step::Talk(0, true)),
                (DIAL_AT, Step::Talk(1, true)),
                (DIAL_AT, Step::Dial(0)),
                (DIAL_AT + second(4), Step::Look),
                (DIAL_AT + second(4), Step::Talk(0, false)),
                (DIAL_AT + second(4), Step::Talk(1, false)),
            ],
            end: DIAL_AT + second(7),
        }
    }

    /// The same, with talk until `talk` after the call, and other things that happen meanwhile, by
    /// time since the call. Silence counts from a second after the call on.
    pub fn with_events(mut self, talk: Duration, events: &[(Duration, Step)]) -> Self {
        let until = DIAL_AT + talk;
        self.steps = vec![
            (DIAL_AT, Step::Talk(0, true)),
            (DIAL_AT, Step::Talk(1, true)),
            (DIAL_AT, Step::Dial(0)),
            (DIAL_AT + Duration::from_secs(1), Step::Listen(true)),
        ];
        self.steps.extend(events.iter().map(|(at, step)| (DIAL_AT + *at, step.clone())));
        self.steps.push((until, Step::Look));
        self.steps.push((until, Step::Listen(false)));
        self.steps.push((until, Step::Talk(0, false)));
        self.steps.push((until, Step::Talk(1, false)));
        self.end = until + Duration::from_secs(5);
        self
    }

    /// One-way delay from a node to the middle of the internet.
    pub fn delay(&self, site: usize) -> Duration {
        let carrier = match self.near {
            Near::SameCarrier(_) => CARRIER_DELAY,
            _ => Duration::ZERO,
        };
        match self.near {
            Near::SameLan => self.sites[0].delay + LAN_DELAY,
            _ => self.sites[site].delay + carrier,
        }
    }

    /// One-way delay between the nodes, on the way that a direct path takes.
    pub fn direct_delay(&self) -> Duration {
        match self.near {
            Near::Apart => self.delay(0) + self.delay(1),
            Near::SameLan => 2 * LAN_DELAY,
            Near::SameCarrier(_) => self.sites[0].delay + self.sites[1].delay,
        }
    }

    /// Whether nothing is ever lost, late or doubled.
    pub fn is_clean(&self) -> bool {
        self.faults == Faults::default()
    }
}

impl Site {
    /// A node behind these boxes.
    pub fn behind(boxes: Vec<BoxConfig>) -> Self {
        Self {
            boxes,
            delay: Duration::from_millis(25),
            ipv4: true,
            ipv6: false,
            relay_only: false,
            birthday: true,
            maps_port: false,
            lies: false,
            bug: Bug::None,
        }
    }
}

/// One-way delay between a node and the middle of the local network that both are in. It must not
/// be nothing: what goes back and forth for ever has to take some time.
pub const LAN_DELAY: Duration = Duration::from_micros(200);
/// One-way delay between a carrier's box and the middle of the internet.
pub const CARRIER_DELAY: Duration = Duration::from_millis(10);
