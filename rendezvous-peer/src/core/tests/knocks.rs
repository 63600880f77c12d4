//! Knocks: who is told what of whom.

use super::*;
use halloo_wire::limits::{MAX_ATTESTED, MAX_DATAGRAM, MAX_KNOCK_DATAGRAMS, MAX_SEALED_CARD};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A knock that wants everything that there is.
fn full(to: Who, shown: u8) -> Knock {
    Knock { relay: true, ..World::knock(to, shown) }
}

fn message(fill: u8) -> Option<KnockMessage> {
    Some(KnockMessage { instance: Some(INSTANCE), envelope: envelope(Lane::Contacts, fill) })
}

fn receipt() -> Receipt {
    Receipt { instance: INSTANCE, ttl_s: 72 * 3600 }
}

#[test]
fn a_knock_forks_to_callee_and_caller() {
    let mut w = World::new();
    let (alice, _) = w.reachable(ALICE, &[1, 2]);
    let caller = w.anonymous();
    let outcome = w.call(caller, None, World::knock_call(ALICE, 2));
    let callee = Callee { observed: vec![address(alice)], card: vec![2; 50], channel: None };
    let expected = Knocked { callee: Some(callee), message: None };
    assert_eq!(outcome.response, Response::Knocked(expected));
    let push = Push::Knock {
        capability: token(2).id(),
        observed: vec![address(caller)],
        card: b"caller's card".to_vec(),
        channel: None,
        datagrams: vec![],
    };
    assert_eq!(outcome.pushes, [(alice, push)]);
}

#[test]
fn unknown_offline_and_not_consenting_answer_alike() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let hidden = Grant { id: token(2).id(), card: vec![] };
    w.ask(alice, Some(session), Call::Grant(vec![hidden]));
    let (bob, _) = w.reachable(BOB, &[1]);
    w.core.connection_closed(bob, w.now);
    let caller = w.anonymous();
    let knocks = [
        Call::Knock(full(Who(9), 1)), // unknown
        Call::Knock(full(BOB, 1)),    // offline
        World::knock_call(ALICE, 2),  // lets its holder relay, who does not want to
        Call::Knock(full(ALICE, 3)),  // no such capability
    ];
    for knock in knocks {
        assert_eq!(w.ask(caller, None, knock).encode(), nobody().encode());
    }
    w.ask(alice, Some(session), Call::Revoke(vec![token(1).id()]));
    assert_eq!(w.ask(caller, None, World::knock_call(ALICE, 1)), nobody());
    let stats = w.core.stats();
    assert_eq!((stats.knocks_forwarded, stats.channels_leased), (0, 0));
}

#[test]
fn who_may_not_learn_the_callees_addresses_gets_a_channel_and_nothing_else() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[]);
    let shown = w.attested(at("198.51.100.7:4001"));
    w.ask(alice, Some(session), Call::Attest(vec![shown]));
    let hidden = Grant { id: token(1).id(), card: vec![] };
    w.ask(alice, Some(session), Call::Grant(vec![hidden]));
    let caller = w.anonymous();
    let (knocked, push) = w.knock_as(caller, full(ALICE, 1));
    let callee = knocked.callee.unwrap();
    assert_eq!((callee.observed, callee.card), (vec![], vec![]));
    let Some(Push::Knock { observed, channel, .. }) = push else { panic!("no push") };
    assert_eq!(observed, [address(caller)], "the caller hides nothing");
    assert_eq!(channel, Some(callee.channel.unwrap().other()));
}

#[test]
fn a_caller_that_hides_its_addresses_is_not_shown() {
    let mut w = World::new();
    w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    let attested = vec![w.attested(at("198.51.100.7:4001"))];
    let (knocked, push) = w.knock_as(caller, Knock { reveal: false, attested, ..full(ALICE, 1) });
    assert!(!knocked.callee.unwrap().observed.is_empty());
    let Some(Push::Knock { observed, channel, .. }) = push else { panic!("no push") };
    assert!(observed.is_empty() && channel.is_some());
}

#[test]
fn addresses_with_a_good_cookie_are_told_and_others_are_left_out() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    let (v6, mapped) = (at("[2001:db8::7]:4000"), at("198.51.100.7:4001"));
    let good = w.attested(v6);
    let wrong = Attested { addr: mapped, cookie: good.cookie };
    w.ask(alice, Some(session), Call::Attest(vec![wrong, good, good]));
    let own = w.attested(address(caller));
    let attested = vec![own, w.attested(mapped), wrong];
    let (knocked, push) = w.knock_as(caller, Knock { attested, ..World::knock(ALICE, 1) });
    assert_eq!(knocked.callee.unwrap().observed, [address(alice), v6]);
    let Some(Push::Knock { observed, .. }) = push else { panic!("no push") };
    assert_eq!(observed, [address(caller), mapped]);
    assert_eq!(w.core.inspect(w.now)[0].attested, [v6]);
}

#[test]
fn attested_addresses_are_replaced_and_go_with_the_connection() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let of = |w: &World| w.core.inspect(w.now)[0].attested.clone();
    let (first, second) = (at("198.51.100.7:4001"), at("198.51.100.8:4001"));
    let shown = [first, second].map(|addr| w.attested(addr));
    w.ask(alice, Some(session), Call::Attest(vec![shown[0]]));
    w.ask(alice, Some(session), Call::Attest(vec![shown[1]]));
    assert_eq!(of(&w), [second]);
    w.register(ALICE, 2);
    assert_eq!(of(&w), []);
    w.pass(std::time::Duration::from_secs(120));
    w.ask(alice, Some(session), Call::Attest(vec![shown[0]]));
    assert_eq!(of(&w), [], "an old cookie shows nothing");
}

#[test]
fn a_device_that_is_not_here_attests_nothing() {
    let mut w = World::new();
    let (first, session) = w.reachable(ALICE, &[1]);
    let second = w.connect(Some(ALICE));
    w.core.connection_closed(first, w.now);
    let refused = w.ask(second, Some(session), Call::Attest(vec![]));
    assert_eq!(refused, Response::Refused(PeerError::NotRegistered));
}

#[test]
fn a_callee_that_moves_is_told_of_when_it_has_attested_where_it_is() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    let moved = at("203.0.113.9:555");
    let seen = Origin::udp(at("[::ffff:203.0.113.9]:555"));
    let ask = |call| {
        let request = Request { session: Some(session), call };
        w.core.call(alice, seen, request, w.now)
    };
    let told = || w.knock_as(caller, World::knock(ALICE, 1)).0.callee.unwrap().observed;
    let elsewhere = w.attested(at("203.0.113.9:556"));
    ask(Call::Peek { after: None });
    ask(Call::Attest(vec![Attested { addr: moved, cookie: elsewhere.cookie }]));
    assert_eq!(told(), [address(alice)], "QUIC may not have made sure of it yet");
    ask(Call::Attest(vec![w.attested(moved), elsewhere]));
    assert_eq!(told(), [moved, elsewhere.addr]);
    assert_eq!(w.core.stats().connections_moved, 1);
}

#[test]
fn nothing_is_sent_to_where_a_caller_pretends_to_be() {
    let mut w = World::new();
    let (alice, _) = w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    let victim = at("203.0.113.9:555");
    let knock = |attested| {
        let call = Call::Knock(Knock { attested, ..full(ALICE, 1) });
        let request = Request { session: None, call };
        let mut outcome = w.core.call(caller, Origin::udp(victim), request, w.now);
        let Some((_, Push::Knock { observed, channel, .. })) = outcome.pushes.pop() else {
            panic!("no push")
        };
        let answer = w.core.relay(address(alice), channel.unwrap(), 100, 1, w.now);
        (observed, answer.to)
    };
    assert_eq!(knock(vec![]), (vec![address(caller)], Ok(address(caller))));
    // Unless it receives there.
    assert_eq!(knock(vec![w.attested(victim)]), (vec![victim], Ok(victim)));
}

#[test]
fn a_node_behind_a_tunnel_has_no_address_to_tell() {
    let w = World::new();
    let tunnel = |n: u8| {
        Origin::tunnel(
            SocketAddr::from(([203, 0, 113, n], 50_000)),
            SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)], 443)),
        )
    };
    let conns = [ConnId(901), ConnId(902)];
    let ask = |n: usize, who: Option<Who>, call| {
        let origin = tunnel(n as u8 + 1);
        if let Some(who) = who {
            let welcome = w.core.welcome(conns[n], origin, Some(who.caller()), w.now).unwrap();
            assert!(matches!(welcome, Push::Welcome { observed, .. }
                if observed == SocketAddr::from(([203, 0, 113, n as u8 + 1], 50_000))));
        }
        w.core.call(conns[n], origin, Request { session: None, call }, w.now)
    };
    let registered = ask(0, Some(ALICE), World::register_call(1));
    let Response::Registered(registered) = registered.response else { panic!() };
    let grant = Call::Grant(vec![Grant { id: token(1).id(), card: vec![1; 50] }]);
    let request = Request { session: Some(registered.session), call: grant };
    w.core.call(conns[0], tunnel(1), request, w.now);
    assert_eq!(w.core.inspect(w.now)[0].observed, None);

    w.core.welcome(conns[1], tunnel(2), None, w.now).unwrap();
    let request = Request { session: None, call: Call::Knock(full(ALICE, 1)) };
    let outcome = w.core.call(conns[1], tunnel(2), request, w.now);
    let Response::Knocked(Knocked { callee: Some(callee), .. }) = outcome.response else {
        panic!()
    };
    assert_eq!((callee.observed, callee.card), (vec![], vec![1; 50]));
    let Push::Knock { observed, .. } = &outcome.pushes[0].1 else { panic!() };
    assert!(observed.is_empty());
    // Frames go where the tunnels are.
    let stand_in = |n| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, n], 443));
    let relayed = w.core.relay(stand_in(2), callee.channel.unwrap(), 100, 1, w.now);
    assert_eq!((relayed.to, relayed.reply), (Ok(stand_in(1)), None));
}

#[test]
fn a_message_in_a_knock_is_left_and_pushed_at_once() {
    let mut w = World::new();
    let (alice, session) = w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    let knock = Call::Knock(Knock { message: message(7), ..full(ALICE, 1) });
    let outcome = w.call(caller, None, knock);
    let Response::Knocked(knocked) = outcome.response else { panic!() };
    assert_eq!(knocked.message, Some(Ok(receipt())));
    assert!(knocked.callee.is_some());
    assert_eq!((outcome.pushes.len(), outcome.mail_for), (1, Some(alice)));
    let Some(Push::Envelope(pushed)) = w.core.next_mail(alice, w.now) else { panic!("no mail") };
    assert_eq!(pushed.envelope, envelope(Lane::Contacts, 7));
    assert_eq!(w.peek(alice, session, None).envelopes.len(), 1);
}

#[test]
fn a_message_waits_though_nobody_hears_the_knock() {
    let mut w = World::new();
    let (alice, _) = w.reachable(ALICE, &[1]);
    w.core.connection_closed(alice, w.now);
    let caller = w.anonymous();
    let (knocked, push) = w.knock_as(caller, Knock { message: message(7), ..full(ALICE, 1) });
    assert_eq!(knocked, Knocked { callee: None, message: Some(Ok(receipt())) });
    assert_eq!(push, None);
    assert_eq!(w.register(ALICE, 2).1.waiting, 1);
}

#[test]
fn a_message_that_is_refused_does_not_hold_up_the_knock() {
    let mut w = World::with(|l| l.contacts = Quota { envelopes: 0, bytes: 0 });
    w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    let (knocked, push) = w.knock_as(caller, Knock { message: message(7), ..full(ALICE, 1) });
    assert_eq!(knocked.message, Some(Err(PeerError::MailboxFull)));
    assert!(knocked.callee.is_some() && push.is_some());
    assert_eq!(w.count(IncidentKind::MailboxFull), 1);
}

#[test]
fn the_message_of_a_knock_hears_what_a_drop_would() {
    let mut w = World::new();
    w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    let refusal = |knock: Knock| w.knock_as(caller, knock).0.message.unwrap().unwrap_err();
    let with_message = |to, shown| Knock { message: message(1), ..full(to, shown) };
    assert_eq!(refusal(with_message(ALICE, 2)), PeerError::NotAuthorized);
    let unknown = PeerError::UnknownRecipient { instance: INSTANCE };
    assert_eq!(refusal(with_message(BOB, 1)), unknown);
    let earlier = Some(InstanceId([1; 16]));
    let late = KnockMessage { instance: earlier, envelope: envelope(Lane::Contacts, 1) };
    let changed = PeerError::InstanceChanged { instance: INSTANCE };
    assert_eq!(refusal(Knock { message: Some(late), ..full(ALICE, 1) }), changed);
    let nonsense = KnockMessage { instance: None, envelope: vec![1, 2, 3] };
    assert_eq!(refusal(Knock { message: Some(nonsense), ..full(ALICE, 1) }), PeerError::Malformed);
}

#[test]
fn the_first_flight_goes_to_the_callee_as_it_is() {
    let mut w = World::new();
    w.reachable(ALICE, &[1]);
    let caller = w.anonymous();
    let flight: Vec<_> = (0..3u8).map(|n| vec![0xc0 | n; 1200]).collect();
    let knock = Knock { datagrams: flight.clone(), ..full(ALICE, 1) };
    let (_, push) = w.knock_as(caller, knock);
    let Some(Push::Knock { datagrams, .. }) = push else { panic!("no push") };
    assert_eq!(datagrams, flight);
}

#[test]
fn the_largest_knock_fits_the_wire_and_the_smallest_bucket() {
    let tight = Rate { per_second: 1, burst: limits::MAX_COST };
    let mut w = World::with(|l| l.connection_rate = tight);
    let (alice, registered) = w.register(ALICE, 1);
    let grant = Grant { id: token(1).id(), card: vec![0; MAX_SEALED_CARD] };
    w.ask(alice, Some(registered.session), Call::Grant(vec![grant]));
    let address = |n: usize| at(&format!("[2001:db8:ffff:ffff:ffff:ffff:ffff:fff{n}]:65535"));
    let attested: Vec<_> = (0..MAX_ATTESTED).map(|n| w.attested(address(n))).collect();
    w.ask(alice, Some(registered.session), Call::Attest(attested.clone()));
    let mut envelope = envelope(Lane::Contacts, 1);
    envelope.resize(envelope.len() - 1024 + 52 * 1024, 0);
    let request = Request {
        session: Some(registered.session),
        call: Call::Knock(Knock {
            card: vec![0; MAX_SEALED_CARD],
            attested,
            datagrams: vec![vec![0xff; MAX_DATAGRAM]; MAX_KNOCK_DATAGRAMS],
            message: Some(KnockMessage { instance: Some(INSTANCE), envelope }),
            ..full(ALICE, 1)
        }),
    };
    assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
    let caller = w.anonymous();
    let Call::Knock(knock) = request.call else { unreachable!() };
    let (knocked, push) = w.knock_as(caller, knock);
    assert_eq!(knocked.message, Some(Ok(receipt())));
    let response = Response::Knocked(knocked);
    assert_eq!(Response::decode(&response.encode()).as_ref(), Ok(&response));
    let push = push.unwrap();
    assert_eq!(Push::decode(&push.encode()).as_ref(), Ok(&push));
}
