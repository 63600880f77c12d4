//! Golden bytes between a node and a rendezvous peer; `golden.rs` says what that means.

use halloo_wire::envelope::Lane;
use halloo_wire::invite::InviteHead;
use halloo_wire::peer::{
    Attested, Call, Callee, Control, DropEnvelope, Found, Grant, Knock, KnockMessage, Knocked,
    LookUp, NotAdmitted, Page, Parked, PeerError, Publication, Push, Receipt, Register, Registered,
    Request, Response, Waiting,
};
use halloo_wire::{
    CapabilityId, CapabilityToken, ChannelId, DeviceId, EnvelopeId, InstanceId, Invite, InviteId,
    RowId, SessionId,
};

use crate::golden::{addr, alice};
use crate::golden_file::check;

#[test]
fn requests() {
    let session = Some(SessionId([0x5e; 16]));
    let request = |session, call| Request { session, call };
    let contact = DropEnvelope {
        to: alice(),
        device: DeviceId::FIRST,
        token: Some(CapabilityToken([0x70; 32])),
        instance: Some(instance()),
        envelope: vec![0xe0, 0xe1],
    };
    let stranger = DropEnvelope { token: None, instance: None, ..contact.clone() };
    let mapped = |cookie| Attested { addr: addr("203.0.113.5:40000"), cookie };
    check(
        "peer-request.hex",
        "",
        &[
            (
                "register",
                request(
                    None,
                    Call::Register(Register {
                        device: DeviceId::FIRST,
                        counter: 300,
                        instance: Some(instance()),
                        grants: Vec::new(),
                        invite: None,
                    }),
                ),
            ),
            (
                "register/with an invite",
                request(
                    None,
                    Call::Register(Register {
                        device: DeviceId::FIRST,
                        counter: 300,
                        instance: None,
                        grants: Vec::new(),
                        invite: Some(invite()),
                    }),
                ),
            ),
            (
                "publish",
                request(
                    session,
                    Call::Publish(Publication {
                        seq: 7,
                        bundle: vec![0xb0, 0xb1, 0xb2],
                        one_time_keys: vec![[0x11; 32], [0x22; 32]],
                    }),
                ),
            ),
            (
                "grant",
                request(
                    session,
                    Call::Grant(vec![
                        Grant { id: CapabilityId([0xca; 32]), card: vec![0xc0, 0xc1] },
                        Grant { id: CapabilityId([0xcb; 32]), card: vec![] },
                    ]),
                ),
            ),
            ("revoke", request(session, Call::Revoke(vec![CapabilityId([0xca; 32])]))),
            ("peek/from the beginning", request(session, Call::Peek { after: None })),
            ("peek/after", request(session, Call::Peek { after: Some(EnvelopeId(128)) })),
            ("ack", request(session, Call::Ack([1, 127, 128].map(EnvelopeId).to_vec()))),
            (
                "look up",
                request(None, Call::LookUp(LookUp { to: alice(), device: DeviceId::FIRST })),
            ),
            ("drop/contact", request(None, Call::Drop(contact))),
            ("drop/stranger", request(None, Call::Drop(stranger))),
            (
                "knock/with everything",
                request(
                    None,
                    Call::Knock(Knock {
                        card: vec![0xc0, 0xc1],
                        reveal: true,
                        attested: vec![
                            mapped(0xc1c2_c3c4_c5c6_c7c8),
                            Attested { addr: addr("[2001:db8::7]:443"), cookie: u64::MAX },
                        ],
                        datagrams: vec![vec![0xc0, 0xc1, 0xc2], vec![0xc0, 0xc3]],
                        message: Some(KnockMessage {
                            instance: Some(instance()),
                            envelope: vec![0xe0, 0xe1],
                        }),
                        ..knock()
                    }),
                ),
            ),
            ("knock/hidden", request(None, Call::Knock(knock()))),
            (
                "knock/direct only",
                request(
                    None,
                    Call::Knock(Knock {
                        card: vec![0xc0, 0xc1],
                        reveal: true,
                        relay: false,
                        message: Some(KnockMessage { instance: None, envelope: vec![0xe0, 0xe1] }),
                        ..knock()
                    }),
                ),
            ),
            ("attest", request(session, Call::Attest(vec![mapped(42)]))),
            ("attest/nothing", request(session, Call::Attest(vec![]))),
            ("park", request(session, Call::Park)),
            ("leave", request(session, Call::Leave)),
        ],
        Control::encode,
        Control::decode,
    );
}

#[test]
fn responses() {
    let registered = Registered {
        session: SessionId([0x5e; 16]),
        expires_s: 1_209_600,
        bundle_seq: Some(7),
        one_time_keys_left: 49,
        capabilities: 200,
        waiting: 3,
    };
    let afresh = Registered {
        bundle_seq: None,
        one_time_keys_left: 0,
        capabilities: 0,
        waiting: 0,
        ..registered
    };
    let found = Found {
        passport: vec![0xd0, 0xd1, 0xd2],
        bundle: vec![0xb0, 0xb1, 0xb2],
        one_time_keys: vec![[0x11; 32], [0x22; 32]],
        one_time_key: Some(1),
    };
    let used_up = Found { one_time_keys: vec![[0x11; 32]], one_time_key: None, ..found.clone() };
    let receipt = Receipt { instance: instance(), ttl_s: 259_200 };
    let knocked = |callee, message| Response::Knocked(Knocked { callee, message });
    let callee = |observed: &[&str], card: &[u8], channel: Option<u64>| {
        let observed = observed.iter().map(|at| addr(at)).collect();
        Some(Callee { observed, card: card.to_vec(), channel: channel.map(ChannelId) })
    };
    let (seen, shown) = ("203.0.113.5:51001", "[2001:db8::7]:443");
    let card = &[0xc0, 0xc1];
    let refused = Response::Refused;
    check(
        "peer-response.hex",
        "",
        &[
            ("registered", Response::Registered(registered)),
            ("registered/unknown before", Response::Registered(afresh)),
            ("done", Response::Done),
            (
                "page",
                Response::Page(Page {
                    envelopes: vec![
                        waiting(),
                        Waiting {
                            id: EnvelopeId(128),
                            lane: Lane::Strangers,
                            envelope: vec![0xe2],
                        },
                    ],
                    more: true,
                }),
            ),
            ("page/empty", Response::Page(Page { envelopes: vec![], more: false })),
            ("found", Response::Found(found)),
            ("found/one-time keys used up", Response::Found(used_up)),
            ("dropped", Response::Dropped(receipt)),
            ("knocked/not there", knocked(None, None)),
            ("knocked/not there but message left", knocked(None, Some(Ok(receipt)))),
            ("knocked/all ways", knocked(callee(&[seen, shown], card, Some(CHANNEL)), None)),
            (
                "knocked/relay only",
                knocked(callee(&[], &[], Some(6)), Some(Err(PeerError::MailboxFull))),
            ),
            ("knocked/direct only", knocked(callee(&[seen], card, None), None)),
            ("refused/malformed", refused(PeerError::Malformed)),
            ("refused/too large", refused(PeerError::TooLarge)),
            ("refused/not registered", refused(PeerError::NotRegistered)),
            ("refused/wrong session", refused(PeerError::WrongSession)),
            ("refused/no certificate", refused(PeerError::NoCertificate)),
            ("refused/stale counter", refused(PeerError::StaleCounter)),
            ("refused/stale bundle", refused(PeerError::StaleBundle)),
            (
                "refused/instance changed",
                refused(PeerError::InstanceChanged { instance: instance() }),
            ),
            (
                "refused/unknown recipient",
                refused(PeerError::UnknownRecipient { instance: instance() }),
            ),
            ("refused/not authorized", refused(PeerError::NotAuthorized)),
            ("refused/mailbox full", refused(PeerError::MailboxFull)),
            ("refused/peer full", refused(PeerError::PeerFull)),
            ("refused/rate limited", refused(PeerError::RateLimited { retry_after_ms: 1500 })),
            ("refused/too many capabilities", refused(PeerError::TooManyCapabilities)),
            ("refused/draining", refused(PeerError::Draining)),
            (
                "refused/not admitted/invite missing",
                refused(PeerError::NotAdmitted(NotAdmitted::InviteMissing)),
            ),
            (
                "refused/not admitted/invite invalid",
                refused(PeerError::NotAdmitted(NotAdmitted::InviteInvalid)),
            ),
            (
                "refused/not admitted/invite expired",
                refused(PeerError::NotAdmitted(NotAdmitted::InviteExpired)),
            ),
            (
                "refused/not admitted/invite revoked",
                refused(PeerError::NotAdmitted(NotAdmitted::InviteRevoked)),
            ),
            (
                "refused/not admitted/invite taken",
                refused(PeerError::NotAdmitted(NotAdmitted::InviteTaken)),
            ),
            (
                "refused/not admitted/not listed",
                refused(PeerError::NotAdmitted(NotAdmitted::NotListed)),
            ),
            (
                "parked",
                Response::Parked(Parked { row: RowId(0x070c_cc0d_abcd_14d8), silence_s: 180 }),
            ),
        ],
        Control::encode,
        Control::decode,
    );
}

#[test]
fn pushes() {
    let capability = CapabilityId([0xca; 32]);
    check(
        "peer-push.hex",
        "",
        &[
            (
                "welcome",
                Push::Welcome {
                    instance: instance(),
                    observed: addr("203.0.113.5:51001"),
                    echo_port: Some(444),
                },
            ),
            (
                "welcome/one port",
                Push::Welcome {
                    instance: instance(),
                    observed: addr("[2001:db8::7]:443"),
                    echo_port: None,
                },
            ),
            ("envelope", Push::Envelope(waiting())),
            (
                "knock/all ways",
                Push::Knock {
                    capability,
                    observed: vec![addr("203.0.113.5:51001"), addr("203.0.113.5:40000")],
                    card: vec![0xc0, 0xc1],
                    channel: Some(ChannelId(CHANNEL).other()),
                    datagrams: vec![vec![0xc0, 0xc1, 0xc2], vec![0xc0, 0xc3]],
                },
            ),
            (
                "knock/relay only",
                Push::Knock {
                    capability,
                    observed: vec![],
                    card: vec![],
                    channel: Some(ChannelId(7)),
                    datagrams: vec![],
                },
            ),
            (
                "knock/direct only",
                Push::Knock {
                    capability,
                    observed: vec![addr("203.0.113.5:51001")],
                    card: vec![0xc0, 0xc1],
                    channel: None,
                    datagrams: vec![],
                },
            ),
            ("superseded", Push::Superseded),
            ("draining", Push::Draining { retry_after_ms: 1500 }),
        ],
        Control::encode,
        Control::decode,
    );
}

/// One that says as little as it can.
fn knock() -> Knock {
    Knock {
        to: alice(),
        device: DeviceId::FIRST,
        token: CapabilityToken([0x70; 32]),
        card: vec![],
        reveal: false,
        attested: vec![],
        relay: true,
        datagrams: vec![],
        message: None,
    }
}

/// For whoever uses it first, until 2033-05-18.
fn invite() -> Invite {
    let head = InviteHead { bound: false, id: InviteId([0x1a; 10]), expires: 2_000_000_000 };
    Invite::new(&head, &[0x7a; 15])
}

fn instance() -> InstanceId {
    InstanceId([0x1d; 16])
}

fn waiting() -> Waiting {
    Waiting { id: EnvelopeId(9), lane: Lane::Contacts, envelope: vec![0xe0, 0xe1] }
}

const CHANNEL: u64 = 0xa1a2_a3a4_a5a6_a7a8;
