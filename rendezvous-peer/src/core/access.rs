//! Whom the peer hosts: everybody, those whom its operator has invited, or those on a list.
//!
//! It is asked when a device registers, and at no other time: who writes to those who are hosted, or
//! looks them up, is not asked who they are. A registration that is there stays until it would be
//! renewed.
//!
//! An invite carries all that the peer needs to know it again, so nothing of it is kept, with one
//! exception. An invite that is for nobody in particular is for the first who uses it, and that is
//! remembered while the process lives: an alias of the identity, which means nothing without the
//! peer's key, under the invite's id, until the invite expires.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use halloo_identity::InviteKey;
use halloo_wire::ids::FingerprintError;
use halloo_wire::peer::{NotAdmitted, PeerError};
use halloo_wire::{Fingerprint, Invite, InviteId};
use subtle::ConstantTimeEq;

use super::limits::{MAX_ALLOWED, MAX_INVITES_IN_USE};
use super::memory::{Charge, For, Memory};

/// What an invite in use takes: its entry in a half-filled tree node.
const USE_COST: usize = 96;

/// Whom a peer hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Those who show an invite that the peer's key has made.
    Invite {
        /// Invites that the operator has taken back.
        revoked: Arc<BTreeSet<InviteId>>,
    },
    /// Those on a list.
    AllowList(AllowList),
}

/// Identities, sorted: 30 bytes each. Printing it tells how many, and not who.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AllowList(Arc<[Fingerprint]>);

/// What is wrong with a list of identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllowListError {
    /// A line that is no fingerprint.
    #[error("line {line}: {why}")]
    Line {
        /// Which one, from 1 on.
        line: usize,
        /// Why it is none.
        why: FingerprintError,
    },
    /// More than fit.
    #[error("line {line}: a list holds at most {MAX_ALLOWED} fingerprints")]
    TooMany {
        /// The first that is too much.
        line: usize,
    },
}

impl AllowList {
    /// Reads a list: one fingerprint in a line. What follows a `#` is a comment, and empty lines do
    /// not count.
    ///
    /// # Errors
    /// [`AllowListError`] names the first line that is none.
    pub fn parse(text: &str) -> Result<Self, AllowListError> {
        let mut list = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
            if entry.is_empty() {
                continue;
            }
            let line = n + 1;
            if list.len() == MAX_ALLOWED {
                return Err(AllowListError::TooMany { line });
            }
            list.push(entry.parse().map_err(|why| AllowListError::Line { line, why })?);
        }
        list.sort_unstable();
        list.dedup();
        Ok(Self(list.into()))
    }

    /// Whether somebody is on it.
    pub fn contains(&self, who: &Fingerprint) -> bool {
        self.0.binary_search(who).is_ok()
    }

    /// How many are on it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is on it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AllowList({})", self.len())
    }
}

/// Decides about registrations.
pub(super) struct Admission {
    access: RwLock<Access>,
    /// `None`: no invite is good.
    key: Option<InviteKey>,
    /// What the clock on the wall says, Unix seconds.
    unix_s: AtomicU64,
    uses: Mutex<Uses>,
    memory: Arc<Memory>,
}

/// Invites that are bound to who has used them first.
#[derive(Default)]
struct Uses {
    by_id: BTreeMap<InviteId, Use>,
    charge: Option<Charge>,
}

struct Use {
    alias: [u8; 16],
    expires: u32,
}

impl Admission {
    /// Hosts everybody.
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self {
            access: RwLock::default(),
            key: None,
            unix_s: AtomicU64::new(0),
            uses: Mutex::default(),
            memory: Arc::clone(memory),
        }
    }

    pub(super) fn set_key(&mut self, key: InviteKey) {
        self.key = Some(key);
    }

    pub(super) fn set(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
    }

    pub(super) fn tell_time(&self, unix_s: u64) {
        self.unix_s.store(unix_s, Ordering::Relaxed);
    }

    /// Whether `who` is hosted. An invite that is not bound is theirs from then on.
    pub(super) fn ask(&self, who: &Fingerprint, invite: Option<&Invite>) -> Result<(), PeerError> {
        match self.check(who, invite).map_err(PeerError::NotAdmitted)? {
            Some((key, id, expires)) => self.bind(id, key.alias(who), expires),
            None => Ok(()),
        }
    }

    /// What is left to be bound, if something is.
    fn check(
        &self,
        who: &Fingerprint,
        invite: Option<&Invite>,
    ) -> Result<Option<(&InviteKey, InviteId, u32)>, NotAdmitted> {
        match &*self.access.read().unwrap_or_else(PoisonError::into_inner) {
            Access::Open => Ok(None),
            Access::AllowList(list) if list.contains(who) => Ok(None),
            Access::AllowList(_) => Err(NotAdmitted::NotListed),
            Access::Invite { revoked } => {
                let invite = invite.ok_or(NotAdmitted::InviteMissing)?;
                let opened = self.key.as_ref().and_then(|key| Some((key, key.open(invite, who)?)));
                // What this key has not made is told nothing more of.
                let (key, head) = opened.ok_or(NotAdmitted::InviteInvalid)?;
                if revoked.contains(&head.id) {
                    return Err(NotAdmitted::InviteRevoked);
                }
                if self.unix_s.load(Ordering::Relaxed) >= u64::from(head.expires) {
                    return Err(NotAdmitted::InviteExpired);
                }
                Ok((!head.bound).then_some((key, head.id, head.expires)))
            }
        }
    }

    fn bind(&self, id: InviteId, alias: [u8; 16], expires: u32) -> Result<(), PeerError> {
        let mut uses = self.uses();
        if let Some(first) = uses.by_id.get(&id) {
            return match bool::from(first.alias.ct_eq(&alias)) {
                true => Ok(()),
                false => Err(PeerError::NotAdmitted(NotAdmitted::InviteTaken)),
            };
        }
        if uses.by_id.len() >= MAX_INVITES_IN_USE || !uses.grow(&self.memory) {
            return Err(PeerError::PeerFull);
        }
        uses.by_id.insert(id, Use { alias, expires });
        Ok(())
    }

    /// Forgets who has used invites that have expired.
    pub(super) fn sweep(&self) {
        let now = self.unix_s.load(Ordering::Relaxed);
        let mut uses = self.uses();
        let before = uses.by_id.len();
        uses.by_id.retain(|_, it| now < u64::from(it.expires));
        if uses.by_id.len() < before {
            uses.shrink();
        }
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Invites in use that are not bound by themselves.
    pub(super) fn in_use(&self) -> usize {
        self.uses().by_id.len()
    }
}

impl Uses {
    /// Takes room for one more. Says whether there was.
    fn grow(&mut self, memory: &Arc<Memory>) -> bool {
        let bytes = (self.by_id.len() + 1) * USE_COST;
        match &mut self.charge {
            Some(charge) => charge.resize(bytes),
            None => {
                self.charge = memory.charge(bytes, For::Bounded);
                self.charge.is_some()
            }
        }
    }

    fn shrink(&mut self) {
        let bytes = self.by_id.len() * USE_COST;
        if let Some(charge) = &mut self.charge {
            let shrunk = charge.resize(bytes);
            debug_assert!(shrunk, "shrinking needs no room");
        }
    }
}
