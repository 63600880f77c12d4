//! Contacts: asking, being asked, accepting, blocking.

use halloo_e2ee::introduce;
use halloo_identity::{Address, Fingerprint, PeerHost, ReachCapability};
use halloo_wire::content::{Content, PeerHint, Profile};
use halloo_wire::inner::Kind;
use halloo_wire::limits::{MAX_NAME, MAX_NOTE, MAX_PEERS};
use halloo_wire::{CapabilityId, DeviceId, Invite, RoundId, Seq};
use zeroize::Zeroizing;

use super::again::new_stream;
use super::{Context, META_INVITE, META_NAME, META_PEERS, Messenger, Output};
use crate::contact::{CheckedHow, ContactState, Verification};
use crate::error::{ConnectError, ContactError};
use crate::event::{EventKind, FailReason};
use crate::net::paths::NearbyCaller;
use crate::store::{ContactRow, StoreError};

/// Contacts in all. Each has a capability at our peer, which keeps 1,024 for a device unless it is
/// told otherwise.
const MAX_CONTACTS: usize = 1_000;
/// Requests that wait for an answer; further ones are dropped. A person reads no more.
const MAX_INCOMING: u64 = 100;

/// What it takes to knock at a contact.
pub(crate) struct Reach {
    pub(crate) device: DeviceId,
    /// The secret of the capability that they gave us.
    pub(crate) theirs: Zeroizing<[u8; 32]>,
    /// Whether they may learn our addresses.
    pub(crate) direct: bool,
}

/// Who presents a capability that we gave.
pub(crate) enum Calling {
    /// A contact.
    Welcome(Caller),
    /// Somebody whom we have asked: the answer may be on its way beside the knock.
    NotYet,
    /// Nobody who may have a connection.
    Nobody,
}

/// What it takes to let a contact in that has knocked.
pub(crate) struct Caller {
    pub(crate) contact: Fingerprint,
    /// The secret of the capability that we gave them.
    pub(crate) ours: Zeroizing<[u8; 32]>,
    /// Whether they may learn our addresses.
    pub(crate) direct: bool,
}

impl Messenger {
    /// The name that this node gives itself; empty when none.
    pub(crate) fn own_name(&self, cx: &Context<'_>) -> Result<String, StoreError> {
        let name = cx.db.meta(META_NAME)?.unwrap_or_default();
        String::from_utf8(name).map_err(|_| StoreError::Unreadable("own name"))
    }

    pub(crate) fn set_own_name(&self, cx: &Context<'_>, name: &str) -> Result<(), StoreError> {
        cx.db.set_meta(META_NAME, shorten(name, MAX_NAME).as_bytes())
    }

    /// The rendezvous peers that serve this node, first choice first.
    pub(crate) fn own_peers(&self, cx: &Context<'_>) -> Result<Vec<PeerHint>, StoreError> {
        match cx.db.meta(META_PEERS)? {
            None => Ok(Vec::new()),
            Some(v) => postcard::from_bytes(&v).map_err(|_| StoreError::Unreadable("own peers")),
        }
    }

    pub(crate) fn set_own_peers(
        &self,
        cx: &Context<'_>,
        peers: &[PeerHint],
    ) -> Result<(), StoreError> {
        debug_assert!(!peers.is_empty() && peers.len() <= MAX_PEERS);
        let bytes = postcard::to_stdvec(peers).map_err(|_| StoreError::Unreadable("own peers"))?;
        cx.db.set_meta(META_PEERS, &bytes)
    }

    /// The invite that lets a peer host us, if we have one.
    pub(crate) fn invite(
        &self,
        cx: &Context<'_>,
        peer: &PeerHost,
    ) -> Result<Option<Invite>, StoreError> {
        let Some(bytes) = cx.db.meta(&format!("{META_INVITE} {peer}"))? else { return Ok(None) };
        let bytes = bytes.try_into().map_err(|_| StoreError::Unreadable("invite"))?;
        Ok(Some(Invite::from_bytes(bytes)))
    }

    pub(crate) fn set_invite(
        &self,
        cx: &Context<'_>,
        peer: &PeerHost,
        invite: &Invite,
    ) -> Result<(), StoreError> {
        cx.db.set_meta(&format!("{META_INVITE} {peer}"), invite.as_bytes())
    }

    /// Asks somebody to become a contact.
    pub(crate) fn add_contact(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        name: Option<&str>,
        note: &str,
    ) -> Result<ContactRow, ContactError> {
        let fp = address.fingerprint;
        if fp == self.fingerprint() {
            return Err(ContactError::Oneself);
        }
        if note.len() > MAX_NOTE {
            return Err(ContactError::NoteTooLong { limit: MAX_NOTE });
        }
        // A key that somebody names is used for reaching them; it is pinned when it was seen.
        if let (Some(given), Some(pinned)) = (address.peer_key, cx.db.pin(&address.peer)?)
            && given != pinned
        {
            let peer = address.peer.clone();
            return Err(ContactError::PeerKeyDiffers { peer, pinned, given });
        }
        if let Some(known) = cx.db.contact(&fp)? {
            return match known.state {
                ContactState::Incoming => {
                    self.accept(cx, &fp, name)?;
                    cx.db.contact(&fp)?.ok_or(ContactError::Unknown)
                }
                _ => Err(ContactError::Known { name: known.name }),
            };
        }
        if cx.db.contacts()?.len() >= MAX_CONTACTS {
            return Err(ContactError::TooMany { limit: MAX_CONTACTS });
        }
        let name = match name {
            Some(name) => self.free_name(cx, name)?,
            None => self.some_name(cx, "", &fp)?,
        };
        let mut row = new_contact(cx, fp, ContactState::Requested, name);
        row.peers = vec![address.peer_hint()];
        cx.db.put_contact(&row)?;
        let profile = self.profile(cx, &row, note)?;
        let seq = cx.db.take_seq(&fp)?;
        cx.db.enqueue(&fp, seq, Kind::Request, &profile.encode(), None)?;
        cx.outputs.push(Output::GrantsChanged);
        cx.wake(fp);
        Ok(row)
    }

    /// Accepts somebody's request.
    pub(crate) fn accept(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        name: Option<&str>,
    ) -> Result<(), ContactError> {
        let mut row = cx.db.contact(fp)?.ok_or(ContactError::Unknown)?;
        match row.state {
            ContactState::Incoming => {}
            ContactState::Accepted => return Ok(()),
            ContactState::Requested => return Err(ContactError::NotAsked),
            ContactState::Blocked => {
                // Somebody who asked before being blocked has given a capability.
                if row.cap_theirs.is_none() {
                    return Err(ContactError::NotAsked);
                }
            }
        }
        if let Some(name) = name.filter(|n| *n != row.name) {
            row.name = self.free_name(cx, name)?;
        }
        row.state = ContactState::Accepted;
        row.ack_due += 1;
        cx.db.put_contact(&row)?;
        let profile = self.profile(cx, &row, "")?;
        let seq = cx.db.take_seq(fp)?;
        cx.db.enqueue(fp, seq, Kind::Accept, &profile.encode(), None)?;
        cx.emit(EventKind::Accepted { contact: *fp })?;
        cx.outputs.push(Output::GrantsChanged);
        cx.wake(*fp);
        Ok(())
    }

    /// Stops hearing from somebody. What was not delivered to them fails.
    pub(crate) fn block(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
    ) -> Result<(), ContactError> {
        let mut row = cx.db.contact(fp)?.ok_or(ContactError::Unknown)?;
        if row.state == ContactState::Blocked {
            return Ok(());
        }
        row.state = ContactState::Blocked;
        row.ack_due = 0;
        cx.db.put_contact(&row)?;
        self.let_go(cx, fp);
        self.end_safety(cx, fp)?;
        self.fail_all(cx, fp, FailReason::Blocked)?;
        cx.outputs.push(Output::GrantsChanged);
        cx.outputs.push(Output::Disconnect(*fp));
        Ok(())
    }

    /// Gives a contact another name.
    pub(crate) fn rename(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        name: &str,
    ) -> Result<(), ContactError> {
        let mut row = cx.db.contact(fp)?.ok_or(ContactError::Unknown)?;
        if row.name != name {
            row.name = self.free_name(cx, name)?;
            cx.db.put_contact(&row)?;
        }
        Ok(())
    }

    /// Notes that the two people have made sure.
    pub(crate) fn set_checked(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        how: CheckedHow,
    ) -> Result<(), StoreError> {
        if let Some(mut row) = cx.db.contact(fp)? {
            row.verified = Verification::Checked { at_unix_s: cx.now.0, how };
            cx.db.put_contact(&row)?;
            // The policy may let a checked contact know more.
            cx.outputs.push(Output::GrantsChanged);
            cx.wake(*fp);
        }
        Ok(())
    }

    /// Finds a contact by name, address, fingerprint, or the first characters of a fingerprint.
    pub(crate) fn find_contact(
        &self,
        cx: &Context<'_>,
        text: &str,
    ) -> Result<ContactRow, ContactError> {
        let text = text.trim();
        if let Some(row) = cx.db.contact_by_name(text)? {
            return Ok(row);
        }
        let fingerprint = match text.parse::<Address>() {
            Ok(address) => Some(address.fingerprint),
            Err(_) => text.parse().ok(),
        };
        if let Some(fp) = fingerprint {
            return cx.db.contact(&fp)?.ok_or(ContactError::Unknown);
        }
        let lower = text.to_ascii_lowercase();
        let mut found =
            cx.db.contacts()?.into_iter().filter(|c| c.fp.to_string().starts_with(&lower));
        match (found.next(), found.next()) {
            (Some(row), None) if lower.len() >= 8 => Ok(row),
            _ => Err(ContactError::Unknown),
        }
    }

    /// Whether the holder of this capability may reach us.
    pub(crate) fn caller(
        &self,
        cx: &Context<'_>,
        id: &CapabilityId,
    ) -> Result<Calling, StoreError> {
        let policy = self.policy(cx)?;
        let caller = cx
            .db
            .contacts()?
            .into_iter()
            .find(|c| ReachCapability::from_bytes(*c.cap_mine).id() == *id);
        Ok(match caller {
            Some(c) if may_link(&c) => {
                let direct = policy.allows(c.state, c.verified);
                Calling::Welcome(Caller { contact: c.fp, ours: c.cap_mine, direct })
            }
            Some(c) if c.state == ContactState::Requested => Calling::NotYet,
            Some(_) | None => Calling::Nobody,
        })
    }

    /// Contacts who may find us in the local network, where we announce `nonce`.
    pub(crate) fn nearby_callers(
        &self,
        cx: &Context<'_>,
        nonce: RoundId,
    ) -> Result<Vec<NearbyCaller>, StoreError> {
        let policy = self.policy(cx)?;
        let callers = cx.db.contacts()?.into_iter().filter(|c| policy.allows(c.state, c.verified));
        Ok(callers.map(|c| NearbyCaller { contact: c.fp, secret: c.cap_mine, nonce }).collect())
    }

    /// What it takes to knock at a contact.
    pub(crate) fn reach(&self, cx: &Context<'_>, fp: &Fingerprint) -> Result<Reach, ConnectError> {
        let row = cx.db.contact(fp)?.ok_or(ConnectError::UnknownContact)?;
        if !may_link(&row) {
            return Err(ConnectError::NotAllowed);
        }
        let direct = self.policy(cx)?.allows(row.state, row.verified);
        let theirs = row.cap_theirs.ok_or(ConnectError::NotAllowed)?;
        Ok(Reach { device: DeviceId(row.device), theirs, direct })
    }

    /// Whether a contact may have a connection to us at all, if only through a relay.
    pub(crate) fn allows_link(
        &self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<bool, StoreError> {
        Ok(cx.db.contact(fp)?.is_some_and(|c| may_link(&c)))
    }

    /// Takes a request that was decrypted and whose sender is proved.
    pub(super) fn take_request(
        &mut self,
        cx: &mut Context<'_>,
        fp: Fingerprint,
        device: DeviceId,
        ratchet_key: [u8; 32],
        profile: &Profile,
    ) -> Result<(), StoreError> {
        let known = cx.db.contact(&fp)?;
        let is_new = known.is_none();
        let mut row = match known {
            Some(row) => row,
            None => {
                let name = self.some_name(cx, &profile.name, &fp)?;
                new_contact(cx, fp, ContactState::Incoming, name)
            }
        };
        row.device = device.0;
        row.ratchet_key = Some(ratchet_key);
        row.introduced = true;
        take_profile(&mut row, profile);
        match row.state {
            ContactState::Incoming => {
                row.note = profile.note.clone();
                cx.db.put_contact(&row)?;
                if is_new {
                    cx.emit(EventKind::Request {
                        from: fp,
                        name: profile.name.clone(),
                        note: profile.note.clone(),
                    })?;
                }
                if self.accept_all {
                    // Everything that `accept` can refuse has just been made true.
                    self.accept(cx, &fp, None).map_err(ContactError::into_store)?;
                }
            }
            ContactState::Requested => {
                // The two requests crossed: each has the other's profile, nothing is left to ask.
                row.state = ContactState::Accepted;
                row.ack_due += 1;
                cx.db.put_contact(&row)?;
                cx.emit(EventKind::Accepted { contact: fp })?;
                cx.outputs.push(Output::GrantsChanged);
                cx.wake(fp);
            }
            ContactState::Accepted => {
                // They begin again: so do we.
                row.ack_due += 1;
                let first = cx.db.unacked(&fp, Seq(0), 1)?.pop();
                if first.is_some_and(|first| first.kind == Kind::Request) {
                    // The two requests crossed. Ours goes on their session, which both sides have.
                    cx.db.put_contact(&row)?;
                    cx.db.clear_inner(&fp, Seq(0))?;
                } else {
                    let (profile, ours) = (self.own_profile(cx, &row)?, row.stream);
                    self.begin_stream(cx, &mut row, (Kind::Accept, &profile), ours)?;
                }
                cx.emit(EventKind::BeganAgain { contact: fp })?;
                cx.outputs.push(Output::GrantsChanged);
                cx.wake(fp);
            }
            ContactState::Blocked => {}
        }
        Ok(())
    }

    /// Takes the answer to our request.
    pub(super) fn take_accept(
        &mut self,
        cx: &mut Context<'_>,
        mut row: ContactRow,
        profile: &Profile,
    ) -> Result<(), StoreError> {
        take_profile(&mut row, profile);
        let news = row.state == ContactState::Requested;
        if news {
            row.state = ContactState::Accepted;
        }
        cx.db.put_contact(&row)?;
        if news {
            cx.emit(EventKind::Accepted { contact: row.fp })?;
            cx.outputs.push(Output::GrantsChanged);
            cx.wake(row.fp);
        }
        Ok(())
    }

    /// Whether a request from somebody unknown may still come in.
    pub(super) fn has_room_for_request(&self, cx: &Context<'_>) -> Result<bool, StoreError> {
        Ok(cx.db.contacts_in_state(ContactState::Incoming)? < MAX_INCOMING
            && cx.db.contacts()?.len() < MAX_CONTACTS)
    }

    /// Our profile for a contact, without a note, as bytes.
    pub(super) fn own_profile(
        &self,
        cx: &Context<'_>,
        row: &ContactRow,
    ) -> Result<Vec<u8>, StoreError> {
        Ok(self.profile(cx, row, "")?.encode())
    }

    fn profile(
        &self,
        cx: &Context<'_>,
        row: &ContactRow,
        note: &str,
    ) -> Result<Profile, StoreError> {
        let mut peers = self.own_peers(cx)?;
        for hint in peers.iter_mut().filter(|h| h.key.is_none()) {
            if let Ok(peer) = PeerHost::new(&hint.host, hint.port) {
                hint.key = cx.db.pin(&peer)?;
            }
        }
        Ok(Profile {
            name: self.own_name(cx)?,
            note: note.to_owned(),
            peers,
            capability: *row.cap_mine,
        })
    }

    /// The introduction that proves who writes.
    pub(super) fn introduction(&mut self, cx: &Context<'_>) -> Result<Vec<u8>, StoreError> {
        let ratchet_key = self.me(cx)?.ratchet_key;
        Ok(introduce(&self.identity, ratchet_key).encode())
    }

    /// Checks that a name may be used.
    fn free_name(&self, cx: &Context<'_>, name: &str) -> Result<String, ContactError> {
        let name = name.trim();
        let sound = !name.is_empty() && !name.chars().any(char::is_control);
        if !sound || name.len() > MAX_NAME {
            return Err(ContactError::BadName { limit: MAX_NAME });
        }
        match cx.db.contact_by_name(name)? {
            Some(_) => Err(ContactError::NameTaken { name: name.to_owned() }),
            None => Ok(name.to_owned()),
        }
    }

    /// A free name like the one that somebody gives themselves, or made of the fingerprint.
    fn some_name(
        &self,
        cx: &Context<'_>,
        given: &str,
        fp: &Fingerprint,
    ) -> Result<String, StoreError> {
        let given: String = given.chars().filter(|c| !c.is_control()).collect();
        let base = match shorten(given.trim(), MAX_NAME - 10) {
            "" => fp.short(),
            name => name.to_owned(),
        };
        if cx.db.contact_by_name(&base)?.is_none() {
            return Ok(base);
        }
        Ok(format!("{base} {}", fp.short()))
    }
}

fn may_link(row: &ContactRow) -> bool {
    row.state == ContactState::Accepted && row.verified != Verification::KeyChanged
}

fn take_profile(row: &mut ContactRow, profile: &Profile) {
    row.given_name = profile.name.clone();
    row.cap_theirs = Some(Zeroizing::new(profile.capability));
    row.peers = profile.peers.clone();
}

fn new_contact(cx: &Context<'_>, fp: Fingerprint, state: ContactState, name: String) -> ContactRow {
    ContactRow {
        fp,
        device: DeviceId::FIRST.0,
        name,
        given_name: String::new(),
        note: String::new(),
        state,
        peers: Vec::new(),
        cap_mine: Zeroizing::new(*ReachCapability::generate().as_bytes()),
        cap_theirs: None,
        ratchet_key: None,
        introduced: false,
        stream: new_stream(cx, None).unwrap_or_default(),
        next_seq: 1,
        verified: Verification::NotChecked,
        attempts: Vec::new(),
        bundle_seq: 0,
        bundle_at: 0,
        ack_due: 0,
        resend_at: 0,
        added: cx.now.0,
    }
}

/// The longest start of a text that has at most `limit` bytes.
fn shorten(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
