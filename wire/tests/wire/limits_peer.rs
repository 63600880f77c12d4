//! Limits of what a node and a rendezvous peer say to each other.

use halloo_wire::DecodeError::{Invalid, TooLong, Truncated};
use halloo_wire::Transcript;
use halloo_wire::codec::decode_control;
use halloo_wire::content::{Body, Content, Message};
use halloo_wire::envelope::Lane;
use halloo_wire::limits::*;
use halloo_wire::peer::{
    Attested, Call, Callee, Control, DropEnvelope, Found, Grant, Knock, KnockMessage, Knocked,
    Page, Publication, Push, Request, Response, Waiting,
};
use halloo_wire::{
    CapabilityId, CapabilityToken, ChannelId, DeviceId, EnvelopeId, InstanceId, SessionId,
};

use crate::golden_file::read;
use crate::limits::somebody;

#[test]
fn a_request_is_refused_when_a_part_of_it_is_too_long() {
    let at = |extra: usize| {
        [
            Call::Publish(Publication {
                seq: 1,
                bundle: vec![0; MAX_BUNDLE + extra],
                one_time_keys: vec![],
            }),
            Call::Publish(Publication {
                seq: 1,
                bundle: vec![],
                one_time_keys: vec![[0; 32]; MAX_ONE_TIME_KEYS + extra],
            }),
            Call::Grant(vec![grant(0); MAX_GRANT + extra]),
            Call::Grant(vec![grant(MAX_SEALED_CARD + extra)]),
            Call::Revoke(vec![CapabilityId([0; 32]); MAX_GRANT + extra]),
            Call::Ack(vec![EnvelopeId(u64::MAX); MAX_ACK_IDS + extra]),
            Call::Drop(DropEnvelope {
                to: somebody(),
                device: DeviceId(u32::MAX),
                token: Some(CapabilityToken([0; 32])),
                instance: None,
                envelope: vec![0; MAX_ENVELOPE + extra],
            }),
            Call::Knock(Knock { card: vec![0; MAX_SEALED_CARD + extra], ..knock() }),
            Call::Knock(Knock { attested: vec![attested(); MAX_ATTESTED + extra], ..knock() }),
            Call::Knock(Knock { datagrams: quic(MAX_KNOCK_DATAGRAMS + extra, 20), ..knock() }),
            Call::Knock(Knock { datagrams: quic(1, MAX_DATAGRAM + extra), ..knock() }),
            Call::Knock(Knock {
                message: Some(KnockMessage {
                    instance: None,
                    envelope: vec![0; MAX_ENVELOPE + extra],
                }),
                ..knock()
            }),
            Call::Attest(vec![attested(); MAX_ATTESTED + extra]),
        ]
        .map(|call| Request { session: None, call })
    };
    for request in at(0) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    for request in at(1) {
        assert_eq!(Request::decode(&request.encode()), Err(TooLong));
    }
}

#[test]
fn the_largest_parts_fit_the_largest_messages() {
    let grants = vec![grant(MAX_SEALED_CARD); MAX_GRANT];
    let request = Request { session: None, call: Call::Grant(grants) };
    assert!(request.encode().len() <= MAX_REQUEST);

    let publication = Publication {
        seq: u64::MAX,
        bundle: vec![0; MAX_BUNDLE],
        one_time_keys: vec![[0; 32]; MAX_ONE_TIME_KEYS],
    };
    let request = Request { session: None, call: Call::Publish(publication) };
    assert!(request.encode().len() <= MAX_REQUEST);

    let knock = Knock {
        card: vec![0; MAX_SEALED_CARD],
        attested: vec![attested(); MAX_ATTESTED],
        datagrams: quic(MAX_KNOCK_DATAGRAMS, MAX_DATAGRAM),
        message: Some(KnockMessage {
            instance: Some(InstanceId([0; 16])),
            envelope: vec![0; MAX_ENVELOPE],
        }),
        ..knock()
    };
    let request = Request { session: Some(SessionId([0; 16])), call: Call::Knock(knock) };
    assert_eq!(Request::decode(&request.encode()), Ok(request));

    assert!(Push::Envelope(waiting(MAX_ENVELOPE)).encode().len() <= MAX_PUSH);
    let push = Push::Knock {
        capability: CapabilityId([0; 32]),
        observed: vec![attested().addr; 1 + MAX_ATTESTED],
        card: vec![0; MAX_SEALED_CARD],
        channel: Some(ChannelId(u64::MAX)),
        datagrams: quic(MAX_KNOCK_DATAGRAMS, MAX_DATAGRAM),
    };
    assert_eq!(Push::decode(&push.encode()), Ok(push));

    // A page is filled while its envelopes have at most MAX_PAGE bytes.
    let envelopes = vec![waiting(MAX_ENVELOPE); MAX_PAGE / MAX_ENVELOPE];
    let page = Response::Page(Page { envelopes, more: true });
    assert!(page.encode().len() <= MAX_RESPONSE);
    let envelopes = vec![waiting(2171); MAX_PAGE / 2171];
    let page = Response::Page(Page { envelopes, more: true });
    assert!(page.encode().len() <= MAX_RESPONSE);

    let text = Body::Text("x".repeat(MAX_TEXT));
    let (nonce, parent) = (halloo_wire::Nonce([0; 16]), Some(halloo_wire::MessageId([0; 16])));
    let message = Message { nonce, parent, body: text };
    let in_stream = halloo_wire::content::in_stream(Transcript::START, &message.encode());
    assert!(in_stream.len() <= MAX_CONTENT);
}

#[test]
fn a_response_is_refused_when_a_part_of_it_is_too_long() {
    let found = |passport: usize, bundle: usize, keys: usize| {
        Response::Found(Found {
            passport: vec![0; passport],
            bundle: vec![0; bundle],
            one_time_keys: vec![[0; 32]; keys],
            one_time_key: None,
        })
    };
    let knocked = |observed, card| {
        let observed = vec![attested().addr; observed];
        let callee = Some(Callee { observed, card: vec![0; card], channel: None });
        Response::Knocked(Knocked { callee, message: None })
    };
    let page = |len| Response::Page(Page { envelopes: vec![waiting(len)], more: false });
    for fits in [
        found(MAX_PASSPORT, MAX_BUNDLE, MAX_ONE_TIME_KEYS),
        knocked(1 + MAX_ATTESTED, MAX_SEALED_CARD),
        page(MAX_ENVELOPE),
    ] {
        assert_eq!(Response::decode(&fits.encode()), Ok(fits));
    }
    for too_long in [
        found(MAX_PASSPORT + 1, 0, 0),
        found(0, MAX_BUNDLE + 1, 0),
        found(0, 0, MAX_ONE_TIME_KEYS + 1),
        knocked(0, MAX_SEALED_CARD + 1),
        knocked(2 + MAX_ATTESTED, 0),
        page(MAX_ENVELOPE + 1),
    ] {
        assert_eq!(Response::decode(&too_long.encode()), Err(TooLong));
    }
}

#[test]
fn a_push_is_refused_when_a_part_of_it_is_too_long() {
    let knock = |card, observed, datagrams| Push::Knock {
        capability: CapabilityId([0; 32]),
        observed: vec![attested().addr; observed],
        card: vec![0; card],
        channel: None,
        datagrams,
    };
    for fits in [
        Push::Envelope(waiting(MAX_ENVELOPE)),
        knock(MAX_SEALED_CARD, 1 + MAX_ATTESTED, quic(MAX_KNOCK_DATAGRAMS, MAX_DATAGRAM)),
    ] {
        assert_eq!(Push::decode(&fits.encode()), Ok(fits));
    }
    for too_long in [
        Push::Envelope(waiting(MAX_ENVELOPE + 1)),
        knock(MAX_SEALED_CARD + 1, 1, vec![]),
        knock(0, 2 + MAX_ATTESTED, vec![]),
        knock(0, 1, quic(MAX_KNOCK_DATAGRAMS + 1, 20)),
        knock(0, 1, quic(1, MAX_DATAGRAM + 1)),
    ] {
        assert_eq!(Push::decode(&too_long.encode()), Err(TooLong));
    }
}

#[test]
fn a_knock_carries_quic_and_nothing_else() {
    // Probes, relay frames and peer datagrams would have the callee's transport do another's work.
    for datagram in [&[][..], &[0x04; 80], &[0x05; 80], &[0x06; 48], &[0x80; 20]] {
        let knock = Knock { datagrams: vec![datagram.to_vec()], ..knock() };
        let request = Request { session: None, call: Call::Knock(knock) };
        assert!(Request::decode(&request.encode()).is_err(), "{datagram:02x?}");

        let push = Push::Knock {
            capability: CapabilityId([0; 32]),
            observed: vec![],
            card: vec![],
            channel: None,
            datagrams: vec![datagram.to_vec()],
        };
        assert!(Push::decode(&push.encode()).is_err(), "{datagram:02x?}");
    }
}

#[test]
fn a_control_message_is_measured_before_it_is_read() {
    assert_eq!(Request::decode(&vec![0; MAX_REQUEST + 1]), Err(TooLong));
    assert_eq!(Response::decode(&vec![0; MAX_RESPONSE + 1]), Err(TooLong));
    assert_eq!(Push::decode(&vec![0; MAX_PUSH + 1]), Err(TooLong));
    assert_eq!(Message::decode(&vec![0; MAX_CONTENT + 1]), Err(TooLong));
    assert_eq!(decode_control::<u8>(&[1, 2], 1), Err(TooLong));
    assert_eq!(decode_control::<u8>(&[1], 1), Ok(1));
}

#[test]
fn a_claimed_length_allocates_nothing() {
    // An acknowledgement that claims 2^63 ids, a page that claims as many envelopes.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(Request::decode(&[&[0, 5][..], &huge].concat()), Err(Truncated));
    assert_eq!(Response::decode(&[&[2][..], &huge].concat()), Err(Truncated));
}

#[test]
fn unknown_control_messages_are_refused() {
    let unknown = Err(Invalid("control message"));
    assert_eq!(Request::decode(&[0, 12]), unknown);
    assert_eq!(Response::decode(&[8]).map(drop), unknown.map(drop));
    assert_eq!(Response::decode(&[6, 16]).map(drop), Err(Invalid("control message")));
    assert_eq!(Response::decode(&[6, 15, 6]).map(drop), Err(Invalid("control message")));
    assert_eq!(Push::decode(&[5]).map(drop), Err(Invalid("control message")));
    assert_eq!(Request::decode(&[2]).map(drop), Err(Invalid("control message")), "no such option");
}

#[test]
fn calls_that_need_a_session_are_not_early_data_for_strangers() {
    let idempotent: Vec<String> = read("peer-request.hex")
        .into_iter()
        .filter(|(_, bytes)| Request::decode(bytes).unwrap().call.is_idempotent())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(idempotent, ["look up", "peek/after", "peek/from the beginning"]);

    let anonymous: Vec<String> = read("peer-request.hex")
        .into_iter()
        .filter(|(_, bytes)| !Request::decode(bytes).unwrap().call.needs_session())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        anonymous,
        [
            "drop/contact",
            "drop/stranger",
            "knock/direct only",
            "knock/hidden",
            "knock/with everything",
            "look up",
            "register",
            "register/with an invite"
        ]
    );
}

fn grant(card: usize) -> Grant {
    Grant { id: CapabilityId([0; 32]), card: vec![0; card] }
}

fn waiting(len: usize) -> Waiting {
    Waiting { id: EnvelopeId(u64::MAX), lane: Lane::Contacts, envelope: vec![0; len] }
}

fn knock() -> Knock {
    Knock {
        to: somebody(),
        device: DeviceId::FIRST,
        token: CapabilityToken([0; 32]),
        card: vec![],
        reveal: true,
        attested: vec![],
        relay: true,
        datagrams: vec![],
        message: None,
    }
}

/// The longest that there is.
fn attested() -> Attested {
    Attested { addr: "[2001:db8::1]:40000".parse().unwrap(), cookie: u64::MAX }
}

/// So many datagrams of so many bytes.
fn quic(count: usize, len: usize) -> Vec<Vec<u8>> {
    vec![vec![0xc0; len]; count]
}
