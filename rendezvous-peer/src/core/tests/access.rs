//! Whom a peer hosts.

use super::*;
use crate::core::access::{Access, AllowList, AllowListError};
use halloo_identity::{InviteKey, PeerKey};
use halloo_wire::invite::{Invite, InviteId};
use halloo_wire::peer::NotAdmitted;
use std::time::Duration;

const CAROL: Who = Who(3);
const NOW_S: u64 = 1_800_000_000;
const LATER_S: u32 = 1_800_000_100;

fn key() -> InviteKey {
    PeerKey::from_seed(&[7; 32]).invite_key()
}

fn invite(n: u8) -> Invite {
    key().issue(InviteId([n; 10]), LATER_S, None)
}

fn bound(n: u8, whom: Who) -> Invite {
    key().issue(InviteId([n; 10]), LATER_S, Some(&whom.fingerprint()))
}

fn invites_only(revoked: &[u8]) -> Access {
    Access::Invite { revoked: Arc::new(revoked.iter().map(|&n| InviteId([n; 10])).collect()) }
}

fn list(of: &[Who]) -> Access {
    let text: Vec<String> = of.iter().map(|who| who.fingerprint().to_string()).collect();
    Access::AllowList(AllowList::parse(&text.join("\n")).unwrap())
}

impl World {
    fn hosting(access: Access) -> Self {
        let mut world = Self::new();
        world.core = world.core.with_invites(key());
        world.core.set_access(access);
        world.core.tell_time(NOW_S);
        world
    }

    fn come(&mut self, who: Who, counter: u64, invite: Option<Invite>) -> Result<(), PeerError> {
        let conn = self.connect(Some(who));
        let Call::Register(register) = Self::register_call(counter) else { unreachable!() };
        match self.call(conn, None, Call::Register(Register { invite, ..register })).response {
            Response::Registered(_) => Ok(()),
            Response::Refused(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }
}

fn no(why: NotAdmitted) -> Result<(), PeerError> {
    Err(PeerError::NotAdmitted(why))
}

#[test]
fn an_open_peer_looks_at_no_invite() {
    let mut w = World::hosting(Access::Open);
    assert_eq!(w.come(ALICE, 1, None), Ok(()));
    assert_eq!(w.come(BOB, 1, Some(Invite::from_bytes([0; 30]))), Ok(()));
    assert_eq!((w.core.stats().not_admitted, w.core.stats().invites_in_use), (0, 0));
}

#[test]
fn an_invite_is_for_the_first_who_uses_it() {
    let mut w = World::hosting(invites_only(&[]));
    assert_eq!(w.come(ALICE, 1, None), no(NotAdmitted::InviteMissing));
    assert_eq!(w.come(ALICE, 1, Some(invite(1))), Ok(()));
    assert_eq!(w.come(BOB, 1, Some(invite(1))), no(NotAdmitted::InviteTaken));
    assert_eq!(w.come(ALICE, 2, Some(invite(1))), Ok(()), "again, as often as she likes");
    assert_eq!(w.come(ALICE, 3, None), no(NotAdmitted::InviteMissing));
    let stats = w.core.stats();
    assert_eq!((stats.not_admitted, stats.invites_in_use, stats.registrations), (3, 1, 1));
}

#[test]
fn a_bound_invite_is_for_one_and_needs_no_memory() {
    let mut w = World::hosting(invites_only(&[]));
    assert_eq!(w.come(BOB, 1, Some(bound(1, ALICE))), no(NotAdmitted::InviteInvalid));
    assert_eq!(w.come(ALICE, 1, Some(bound(1, ALICE))), Ok(()));
    assert_eq!(w.core.stats().invites_in_use, 0);
}

#[test]
fn invites_of_others_are_worth_nothing() {
    let mut w = World::hosting(invites_only(&[]));
    let other = PeerKey::from_seed(&[8; 32]).invite_key();
    let forged = other.issue(InviteId([1; 10]), LATER_S, None);
    assert_eq!(w.come(ALICE, 1, Some(forged)), no(NotAdmitted::InviteInvalid));
    let mut bytes = *invite(1).as_bytes();
    bytes[14] ^= 1;
    let longer = Invite::from_bytes(bytes);
    assert_eq!(w.come(ALICE, 1, Some(longer)), no(NotAdmitted::InviteInvalid));
    w.core = Core::new(Limits::default(), INSTANCE, [5; 32], w.now).unwrap();
    w.core.set_access(invites_only(&[]));
    assert_eq!(w.come(ALICE, 1, Some(invite(1))), no(NotAdmitted::InviteInvalid), "without a key");
    assert_eq!(w.core.stats().registrations, 0);
}

#[test]
fn an_invite_ends() {
    let mut w = World::hosting(invites_only(&[]));
    assert_eq!(w.come(ALICE, 1, Some(invite(1))), Ok(()));
    w.core.tell_time(u64::from(LATER_S) - 1);
    w.expire();
    assert_eq!(w.come(ALICE, 2, Some(invite(1))), Ok(()));
    w.core.tell_time(u64::from(LATER_S));
    assert_eq!(w.come(ALICE, 3, Some(invite(1))), no(NotAdmitted::InviteExpired));
    assert_eq!(w.core.stats().registrations, 1, "what is there stays");
    let used = w.core.stats().memory_used;
    w.expire();
    assert_eq!(w.core.stats().invites_in_use, 0);
    assert!(w.core.stats().memory_used < used);
    assert_eq!(w.come(BOB, 1, Some(invite(1))), no(NotAdmitted::InviteExpired));
}

#[test]
fn an_invite_can_be_taken_back() {
    let mut w = World::hosting(invites_only(&[1]));
    assert_eq!(w.come(ALICE, 1, Some(invite(1))), no(NotAdmitted::InviteRevoked));
    assert_eq!(w.come(ALICE, 1, Some(invite(2))), Ok(()));
    w.core.set_access(invites_only(&[1, 2]));
    assert_eq!(w.come(ALICE, 2, Some(invite(2))), no(NotAdmitted::InviteRevoked));
    w.core.set_access(invites_only(&[]));
    assert_eq!(w.come(BOB, 1, Some(invite(2))), no(NotAdmitted::InviteTaken), "it was Alice's");
}

#[test]
fn a_list_says_who_is_hosted() {
    let mut w = World::hosting(list(&[BOB, ALICE]));
    assert_eq!((w.come(ALICE, 1, None), w.come(BOB, 1, None)), (Ok(()), Ok(())));
    assert_eq!(w.come(CAROL, 1, Some(invite(1))), no(NotAdmitted::NotListed));
    w.core.set_access(list(&[CAROL]));
    assert_eq!(w.come(CAROL, 1, None), Ok(()));
    assert_eq!(w.come(ALICE, 2, None), no(NotAdmitted::NotListed));
}

#[test]
fn those_who_write_are_not_asked() {
    let mut w = World::hosting(Access::Open);
    let (_, session) = w.reachable(ALICE, &[1]);
    w.core.set_access(invites_only(&[]));
    let stranger = w.anonymous();
    for call in [
        World::drop_call(ALICE, Lane::Strangers, 1, None),
        World::drop_call(ALICE, Lane::Contacts, 2, Some(1)),
        World::knock_call(ALICE, 1),
    ] {
        let response = w.call(stranger, None, call).response;
        assert!(!matches!(response, Response::Refused(_)), "{response:?}");
    }
    // What was registered before stays, and its mail can be fetched.
    let again = w.connect(Some(ALICE));
    assert_eq!(w.peek(again, session, None).envelopes.len(), 2);
    w.pass(Duration::from_secs(60));
    w.expire();
    assert_eq!(w.core.stats().registrations, 1);
}

#[test]
fn a_refusal_comes_after_the_certificate() {
    let mut w = World::hosting(invites_only(&[]));
    let conn = w.anonymous();
    let answer = w.ask(conn, None, World::register_call(1));
    assert_eq!(answer, Response::Refused(PeerError::NoCertificate));
}

#[test]
fn invites_in_use_are_paid_from_the_memory_cap() {
    let mut w = World::with(|l| l.memory = limits::MIN_MEMORY);
    w.core = w.core.with_invites(key());
    w.core.set_access(invites_only(&[]));
    let mut n = 0;
    let refused = loop {
        // One person, who uses one after the other.
        n += 1;
        let mut id = [0; 10];
        id[..8].copy_from_slice(&u64::to_be_bytes(n));
        if let Err(error) = w.come(ALICE, n, Some(key().issue(InviteId(id), LATER_S, None))) {
            break error;
        }
    };
    assert_eq!(refused, PeerError::PeerFull);
    let stats = w.core.stats();
    assert!(stats.invites_in_use > 100 && stats.memory_used <= stats.memory_cap);
}

#[test]
fn mistakes_in_a_list_are_named() {
    let alice = ALICE.fingerprint().to_string();
    let parse = |text: &str| AllowList::parse(text);
    assert_eq!(parse("").map(|list| list.len()), Ok(0));
    let list = parse(&format!("# us\n\n  {alice} # Alice\n{}\r\n", alice.to_uppercase())).unwrap();
    assert_eq!((list.len(), list.contains(&ALICE.fingerprint())), (1, true));
    assert!(!list.contains(&BOB.fingerprint()));
    assert_eq!(format!("{list:?}"), "AllowList(1)");
    let wrong = parse(&format!("{alice}\n\n{}", &alice[1..])).unwrap_err();
    assert!(matches!(wrong, AllowListError::Line { line: 3, .. }), "{wrong}");
    assert!(wrong.to_string().starts_with("line 3: a fingerprint has 52 characters"), "{wrong}");
}

proptest::proptest! {
    /// Whatever comes, in whatever order: an invite lets one identity in.
    #[test]
    fn nobody_shares_an_invite(
        steps in proptest::collection::vec((1..5u8, 0..4u8, proptest::bool::ANY), 1..60),
    ) {
        let mut w = World::hosting(invites_only(&[]));
        let mut owners = std::collections::HashMap::new();
        for (counter, (who, n, for_bob)) in (1..).zip(steps) {
            let who = Who(who);
            let shown = if for_bob { bound(n, BOB) } else { invite(n) };
            let expected = match for_bob {
                true if who == BOB => Ok(()),
                true => no(NotAdmitted::InviteInvalid),
                false if *owners.entry(n).or_insert(who.0) == who.0 => Ok(()),
                false => no(NotAdmitted::InviteTaken),
            };
            proptest::prop_assert_eq!(w.come(who, counter, Some(shown)), expected);
        }
        proptest::prop_assert_eq!(w.core.stats().invites_in_use, owners.len());
    }
}
