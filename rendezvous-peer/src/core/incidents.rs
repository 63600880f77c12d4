//! What went wrong, without saying for whom.
//!
//! A record is a kind, the second and a count. There are as many in a second as there are kinds,
//! so a flood of bad packets fills no memory, and the ring forgets its oldest.

use std::collections::VecDeque;

use halloo_wire::peer::PeerError;
use serde::Serialize;

use super::time::Millis;

/// A kind of incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IncidentKind {
    /// Bytes that are no request.
    Malformed,
    /// A request beyond a limit of the wire.
    TooLarge,
    /// A session id that is not the connection's.
    WrongSession,
    /// A registration whose counter has been used.
    StaleRegistration,
    /// A bundle older than the one that is kept.
    StaleBundle,
    /// A drop or grant without permission.
    NotAuthorized,
    /// Too many requests.
    RateLimited,
    /// A full lane of a mailbox.
    MailboxFull,
    /// The memory cap or the number of registrations is reached.
    PeerFull,
    /// A connection beyond the limits.
    TooManyConnections,
}

impl IncidentKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::TooLarge,
        Self::WrongSession,
        Self::StaleRegistration,
        Self::StaleBundle,
        Self::NotAuthorized,
        Self::RateLimited,
        Self::MailboxFull,
        Self::PeerFull,
        Self::TooManyConnections,
    ];

    /// The incident that a refusal is, if it is one. What an honest node runs into in the
    /// ordinary course of things is none.
    pub fn of(refusal: &PeerError) -> Option<Self> {
        match refusal {
            PeerError::Malformed => Some(Self::Malformed),
            PeerError::TooLarge => Some(Self::TooLarge),
            PeerError::WrongSession => Some(Self::WrongSession),
            PeerError::StaleCounter => Some(Self::StaleRegistration),
            PeerError::StaleBundle => Some(Self::StaleBundle),
            PeerError::NotAuthorized => Some(Self::NotAuthorized),
            PeerError::RateLimited { .. } => Some(Self::RateLimited),
            PeerError::MailboxFull => Some(Self::MailboxFull),
            PeerError::PeerFull => Some(Self::PeerFull),
            _ => None,
        }
    }
}

/// What happened, when and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// What.
    pub kind: IncidentKind,
    /// The second, of the core's monotonic time.
    pub second: u64,
    /// How often in that second.
    pub count: u32,
}

/// The latest incidents.
#[derive(Debug)]
pub(super) struct Incidents {
    ring: VecDeque<Incident>,
    limit: usize,
}

impl Incidents {
    /// A ring of at most `limit` records.
    pub(super) fn new(limit: usize) -> Self {
        Self { ring: VecDeque::new(), limit }
    }

    /// Records one incident.
    pub(super) fn record(&mut self, kind: IncidentKind, now: Millis) {
        let second = now.seconds();
        let mut latest = self.ring.iter_mut().rev().take_while(|i| i.second >= second);
        if let Some(same) = latest.find(|i| i.kind == kind && i.second == second) {
            same.count = same.count.saturating_add(1);
            return;
        }
        if self.ring.len() >= self.limit {
            self.ring.pop_front();
        }
        if self.limit > 0 {
            self.ring.push_back(Incident { kind, second, count: 1 });
        }
    }

    /// The records, oldest first.
    pub(super) fn list(&self) -> Vec<Incident> {
        self.ring.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_record_a_second() {
        let mut incidents = Incidents::new(4);
        for ms in 0..2000 {
            incidents.record(IncidentKind::Malformed, Millis(ms));
        }
        incidents.record(IncidentKind::WrongSession, Millis(1999));
        let kinds: Vec<_> = incidents.list().iter().map(|i| (i.second, i.kind, i.count)).collect();
        assert_eq!(
            kinds,
            [
                (0, IncidentKind::Malformed, 1000),
                (1, IncidentKind::Malformed, 1000),
                (1, IncidentKind::WrongSession, 1)
            ]
        );
    }

    #[test]
    fn the_ring_forgets_its_oldest() {
        let mut incidents = Incidents::new(3);
        for s in 0..10 {
            incidents.record(IncidentKind::PeerFull, Millis(s * 1000));
        }
        assert_eq!(incidents.list().iter().map(|i| i.second).collect::<Vec<_>>(), [7, 8, 9]);
    }
}
