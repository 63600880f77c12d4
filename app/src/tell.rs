//! The library's values as facts.

use halloo::{
    Address, Contact, ContactState, Delivery, EventKind, Fingerprint, HistoryItem, Node,
    NotAdmitted, Path, SafetyState,
};

use crate::control::protocol::Said;
use crate::duration::millis;
use crate::fact::{ContactCard, Fact, Identity, Message, PathTo, State};

/// An event, with names in place of fingerprints.
pub(crate) async fn event(node: &Node, kind: EventKind) -> Fact {
    match kind {
        EventKind::Online { peer, machine } => {
            Fact::Online { peer: peer.to_string(), machine: machine.to_string() }
        }
        EventKind::Offline { peer, why } => Fact::Offline { peer: peer.to_string(), why },
        EventKind::PeerKeyChanged { peer, expected, found } => Fact::PeerKeyChanged {
            peer: peer.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        },
        EventKind::NotAdmitted { peer, why } => Fact::NotAdmitted {
            peer: peer.to_string(),
            code: not_admitted(why).to_owned(),
            why: why.to_string(),
        },
        EventKind::Request { from, name: given_name, note } => Fact::Request {
            from: name(node, &from).await,
            fingerprint: from.to_string(),
            given_name,
            note,
        },
        EventKind::Accepted { contact } => {
            Fact::Accepted { contact: name(node, &contact).await, fingerprint: contact.to_string() }
        }
        EventKind::Message { from, id, text, parent, via } => Fact::Message(Message {
            from: name(node, &from).await,
            fingerprint: from.to_string(),
            id: id.to_string(),
            text,
            parent: parent.map(|id| id.to_string()),
            via: via.to_string(),
        }),
        EventKind::AtPeer { to, id, until_unix_s } => Fact::AtPeer {
            to: name(node, &to).await,
            id: id.to_string(),
            until_unix_s,
            via: halloo::Via::Mailbox.to_string(),
        },
        EventKind::Delivered { to, id, via } => {
            Fact::Delivered { to: name(node, &to).await, id: id.to_string(), via: via.to_string() }
        }
        EventKind::Undeliverable { to, why } => Fact::Undeliverable {
            to: name(node, &to).await,
            code: why.code().to_owned(),
            why: why.to_string(),
        },
        EventKind::Failed { to, id, why } => {
            Fact::Failed { to: name(node, &to).await, id: id.to_string(), why: why.to_string() }
        }
        EventKind::Path { contact, path: to } => Fact::Path(path(name(node, &contact).await, &to)),
        EventKind::Safety { contact, state } => {
            Fact::Safety { contact: name(node, &contact).await, state: safety(&state).to_owned() }
        }
        EventKind::Undecryptable { from } => Fact::Undecryptable { from: name(node, &from).await },
        EventKind::BeganAgain { contact } => Fact::BeganAgain {
            contact: name(node, &contact).await,
            fingerprint: contact.to_string(),
        },
        EventKind::SetBack { contact } => {
            Fact::SetBack { contact: name(node, &contact).await, fingerprint: contact.to_string() }
        }
        EventKind::Lagged { dropped } => Fact::Lagged { dropped },
        other => Fact::Other { what: format!("{other:?}") },
    }
}

/// The code of why a peer does not host us.
pub(crate) fn not_admitted(why: NotAdmitted) -> &'static str {
    match why {
        NotAdmitted::InviteMissing => "invite-missing",
        NotAdmitted::InviteInvalid => "invite-invalid",
        NotAdmitted::InviteExpired => "invite-expired",
        NotAdmitted::InviteRevoked => "invite-revoked",
        NotAdmitted::InviteTaken => "invite-taken",
        NotAdmitted::NotListed => "not-listed",
        _ => "not-admitted",
    }
}

/// What to do about it.
pub(crate) fn admission_help(code: &str) -> &'static str {
    match code {
        "not-listed" => {
            "give its operator your address, which halloo id prints, or use another peer"
        }
        _ => "ask its operator for an invite, then: halloo init --invite INVITE",
    }
}

/// Our name for somebody.
pub(crate) async fn name(node: &Node, who: &Fingerprint) -> String {
    match node.contact(&who.to_string()).await {
        Ok(contact) => contact.name,
        Err(_) => who.short(),
    }
}

/// Who we are.
pub(crate) fn identity(address: &Address) -> Identity {
    Identity {
        address: address.to_string(),
        uri: address.to_uri(),
        fingerprint: address.fingerprint.to_string(),
        peer: address.peer.to_string(),
    }
}

/// A contact as it stands.
pub(crate) fn contact(contact: &Contact) -> ContactCard {
    ContactCard {
        name: contact.name.clone(),
        address: contact.address.to_string(),
        fingerprint: contact.fingerprint.to_string(),
        state: match contact.state {
            ContactState::Requested => "requested",
            ContactState::Incoming => "incoming",
            ContactState::Accepted => "accepted",
            ContactState::Blocked => "blocked",
        }
        .to_owned(),
        verified: contact.verified.to_string(),
        checked: contact.verified.is_checked(),
        given_name: contact.given_name.clone(),
        note: contact.note.clone(),
        via: contact.path.via().to_string(),
    }
}

/// Where a message stands.
pub(crate) fn state(delivery: Delivery) -> State {
    match delivery {
        Delivery::Waiting => State::Waiting,
        Delivery::AtPeer { until_unix_s } => State::AtPeer { until_unix_s },
        Delivery::Delivered => State::Delivered,
        Delivery::Failed { why } => State::Failed { why: why.to_string() },
    }
}

/// The path to a contact.
pub(crate) fn path(contact: String, path: &Path) -> PathTo {
    // A round trip of zero is one that was not measured yet.
    let measured = |rtt: &std::time::Duration| (!rtt.is_zero()).then(|| millis(*rtt));
    let via = path.via().to_string();
    let none = PathTo { contact, via, addr: None, rtt_ms: None, technique: None, why: None };
    match path {
        Path::Direct { addr, rtt, technique } => PathTo {
            addr: Some(addr.to_string()),
            rtt_ms: measured(rtt),
            technique: Some(technique.to_string()),
            ..none
        },
        Path::Relayed { rtt, why } => {
            PathTo { rtt_ms: measured(rtt), why: Some(why.to_string()), ..none }
        }
        Path::Mailbox => none,
    }
}

fn safety(state: &SafetyState) -> &'static str {
    match state {
        SafetyState::Started { by_us: true } => "started-by-us",
        SafetyState::Started { by_us: false } => "started-by-them",
        SafetyState::CodeReady { .. } => "code-ready",
        SafetyState::WaitingForThem => "waiting-for-them",
        SafetyState::Verified => "verified",
        SafetyState::Mismatch => "mismatch",
        SafetyState::Cancelled => "cancelled",
    }
}

/// One message of a conversation with `name`, who is `with`. Ours have a state.
pub(crate) fn said(
    name: &str,
    with: &Fingerprint,
    item: HistoryItem,
    state: Option<State>,
) -> Said {
    let id = item.id.to_string();
    let text =
        item.text.unwrap_or_else(|| "(a kind of message that this version cannot show)".into());
    match state {
        Some(state) => Said::Ours { id, text, state },
        None => Said::Theirs(Message {
            from: name.to_owned(),
            fingerprint: with.to_string(),
            id,
            text,
            parent: item.parent.map(|id| id.to_string()),
            // The store does not remember it.
            via: String::new(),
        }),
    }
}
