//! What our peer hands to those who want to write to us, and what it lets through.

use halloo_e2ee::{BundleSecrets, CardDirection, make_bundle, refresh_bundle, seal_card};
use halloo_identity::ReachCapability;
use halloo_wire::CapabilityId;
use halloo_wire::candidate::Card;
use halloo_wire::peer::{Grant, Publication};

use super::{Context, Messenger};
use crate::contact::ContactState;
use crate::store::StoreError;

/// One-time keys at the peer below which new ones are published.
const FEW_ONE_TIME_KEYS: u16 = 10;

/// Counts the one-time keys of the newest bundle that came back in a message.
pub(super) const KEYS_USED: &str = "one_time_keys_used";

impl Messenger {
    /// Begins a registration: a counter, larger than every time before. It follows the clock, so
    /// that a node that lost its store but not its key is still ahead.
    pub(crate) fn register(&self, cx: &Context<'_>) -> Result<u64, StoreError> {
        cx.db.count_up("registrations", cx.now.0)
    }

    /// What is to be published, given what the peer has: the sequence number of its bundle and the
    /// one-time keys that it has left. `None` when the peer has all.
    pub(crate) fn publication(
        &mut self,
        cx: &Context<'_>,
        peer_has: Option<(u64, u16)>,
    ) -> Result<Option<Publication>, StoreError> {
        self.prune_secrets(cx)?;
        let newest = cx.db.newest_bundle()?;
        let due = match &newest {
            None => true,
            Some(newest) => {
                let secrets = self.secrets(cx)?.iter().find(|s| s.seq() == newest.seq);
                secrets.is_none_or(|s| s.rotation_due(cx.now))
            }
        };
        // A peer that has restarted has given one-time keys away that nobody knows of any more:
        // a key that is given twice makes the second message unreadable.
        let few = peer_has.is_none_or(|(_, left)| left < FEW_ONE_TIME_KEYS);
        match newest {
            Some(newest) if !due && !few => {
                Ok((peer_has.map(|(seq, _)| seq) != Some(newest.seq)).then_some(newest))
            }
            newest => {
                let keep = newest.map(|n| n.seq).filter(|_| !due);
                self.new_bundle(cx, keep).map(Some)
            }
        }
    }

    fn new_bundle(
        &mut self,
        cx: &Context<'_>,
        keep_sealing_of: Option<u64>,
    ) -> Result<Publication, StoreError> {
        // Like the registrations' counter: contacts refuse a bundle that is behind another one.
        let seq = cx.db.count_up("bundles", cx.now.0)?;
        let identity = self.identity.clone();
        self.secrets(cx)?;
        self.account(cx)?;
        let (secrets, account) = match (&self.secrets, &mut self.account) {
            (Some(secrets), Some(account)) => (secrets, account),
            _ => return Err(StoreError::Unreadable("account")),
        };
        let kept = keep_sealing_of
            .and_then(|kept| secrets.iter().find(|s| s.seq() == kept))
            .and_then(|current| refresh_bundle(&identity, account, current, seq, cx.now));
        let (bundle, one_time_keys, secrets) =
            kept.unwrap_or_else(|| make_bundle(&identity, account, seq, cx.now));
        let encoded = bundle.encode();
        cx.db.set_count(KEYS_USED, 0)?;
        cx.db.add_bundle(seq, &secrets.to_bytes(), &encoded, &one_time_keys, cx.now.0)?;
        self.save_account(cx)?;
        self.secrets = None;
        Ok(Publication { seq, bundle: encoded, one_time_keys })
    }

    fn prune_secrets(&mut self, cx: &Context<'_>) -> Result<(), StoreError> {
        let now = cx.now;
        let expired: Vec<u64> = self
            .secrets(cx)?
            .iter()
            .filter(|s| s.is_expired(now))
            .map(BundleSecrets::seq)
            .collect();
        for seq in &expired {
            cx.db.remove_bundle(*seq)?;
        }
        if !expired.is_empty() {
            self.secrets = None;
        }
        if self.account(cx)?.prune(now) {
            self.save_account(cx)?;
        }
        Ok(())
    }

    /// The secrets of all bundles that may still be sealed to.
    pub(super) fn secrets(&mut self, cx: &Context<'_>) -> Result<&[BundleSecrets], StoreError> {
        if self.secrets.is_none() {
            let secrets = cx
                .db
                .bundle_secrets()?
                .iter()
                .map(|(_, bytes)| {
                    BundleSecrets::from_bytes(bytes)
                        .map_err(|_| StoreError::Unreadable("bundle secrets"))
                })
                .collect::<Result<Vec<_>, _>>()?;
            self.secrets = Some(secrets);
        }
        Ok(self.secrets.as_deref().expect("set above"))
    }

    /// What the peer has after a publication: the sequence number of the bundle, and how many of
    /// its one-time keys have not come back in a message.
    pub(crate) fn published(&self, cx: &Context<'_>) -> Result<Option<(u64, u16)>, StoreError> {
        let used = cx.db.count(KEYS_USED)?;
        Ok(cx.db.newest_bundle()?.map(|newest| {
            let left = (newest.one_time_keys.len() as u64).saturating_sub(used);
            (newest.seq, u16::try_from(left).unwrap_or(u16::MAX))
        }))
    }

    /// The capabilities that our peer must not have.
    pub(crate) fn revoked(&self, cx: &Context<'_>) -> Result<Vec<CapabilityId>, StoreError> {
        let contacts = cx.db.contacts()?;
        let blocked = contacts.iter().filter(|c| c.state == ContactState::Blocked);
        Ok(blocked.map(|c| ReachCapability::from_bytes(*c.cap_mine).id()).collect())
    }

    /// The capabilities that our peer should have: one for each contact that may write to us, with
    /// our sealed card for those who may have a direct path.
    pub(crate) fn grants(&self, cx: &Context<'_>, card: &Card) -> Result<Vec<Grant>, StoreError> {
        let policy = self.policy(cx)?;
        let contacts = cx.db.contacts()?;
        let granted = contacts
            .iter()
            .filter(|c| matches!(c.state, ContactState::Accepted | ContactState::Requested));
        Ok(granted
            .map(|c| {
                let capability = ReachCapability::from_bytes(*c.cap_mine);
                let card = if policy.allows(c.state, c.verified) {
                    seal_card(&capability.card_key(), CardDirection::Callee, card)
                } else {
                    Vec::new()
                };
                Grant { id: capability.id(), card }
            })
            .collect())
    }
}
