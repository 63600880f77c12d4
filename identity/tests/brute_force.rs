//! A man in the middle against six digits.
//!
//! Alice and Bob got each other's address from Mallory, who put her own keys in. She stands as Bob
//! before Alice and as Alice before Bob, and wins when both screens show the same digits. Against
//! digits that are a hash of both public keys she needs about a thousand keys, and a moment.
//! Against the commit-then-reveal exchange the same keys give her what guessing gives.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::ops::RangeInclusive;

use ed25519_dalek::SigningKey;
use halloo_identity::safety::{
    AwaitCommit, AwaitInitiatorKey, AwaitReveal, Compare, Initiator, Responder, SafetyError,
};
use halloo_identity::{Fingerprint, fingerprint};
use halloo_wire::content::{Safety, SafetyStep};

/// Keys that Mallory makes in all. The naive code falls to a fraction of them.
const BUDGET: u32 = 4_000;
/// Runs of the exchange that the same keys allow: each takes two.
const RUNS: u32 = BUDGET / 2;
/// Runs in which the last digit agrees by chance: 200 of 2,000, give or take four times 13.4.
const BY_CHANCE: RangeInclusive<usize> = 147..=253;

#[test]
fn a_hash_of_both_keys_falls_to_a_thousand_keys() {
    for pair in 0..5 {
        let (alice, bob) = (identity("alice", pair), identity("bob", pair));
        let found = collide(alice, bob, pair).expect("the naive code is broken");
        assert_eq!(naive_code(alice, found.as_bob), naive_code(found.as_alice, bob));
        assert!(found.as_bob != bob && found.as_alice != alice);
        assert!(found.keys_made <= BUDGET / 2, "{} keys", found.keys_made);
    }
}

#[test]
fn own_keys_on_both_sides_win_no_more_than_guessing_does() {
    let mut wins = Wins::default();
    for run in 0..RUNS {
        let mut middle = Middle::new(run);
        let to_alice = middle.commit_to_alice(secret("mallory as bob", run));
        let to_bob = secret("mallory as alice", run);
        wins.count(middle.finish(to_alice, to_bob));
    }
    wins.are_luck();
}

#[test]
fn searching_against_a_guessed_key_wins_no_more_than_guessing_does() {
    // Mallory completes the exchange with Alice first and knows those digits. She then searches
    // for a key to show to Bob that would give him the same digits if his key were her guess.
    let mut wins = Wins::default();
    let mut found = 0;
    for run in 0..100 {
        let mut middle = Middle::new(run);
        let to_alice = middle.commit_to_alice(secret("mallory as bob", run));
        let digits_of_alice = middle.reveal_of_alice(&to_alice).code().number();
        let guess = secret("guess at bob's key", run);
        let best = (0..40).map(|i| secret("searched", run * 100 + i)).find(|&candidate| {
            let (as_alice, _) = Initiator::start_with_secret(
                candidate.into(),
                middle.exchange,
                middle.as_alice,
                middle.bob,
            );
            let (bob, commit) = Responder::on_start_with_secret(
                guess.into(),
                middle.exchange,
                middle.bob,
                middle.as_alice,
            );
            let (_, reveal) = as_alice.on_commit(bytes(&commit));
            let (imagined, _) = bob.on_reveal(bytes(&reveal)).unwrap();
            imagined.code().number() % 10 == digits_of_alice % 10
        });
        found += usize::from(best.is_some());
        let to_bob = best.unwrap_or(secret("mallory as alice", run));
        wins.count(middle.finish(to_alice, to_bob));
    }
    assert!(found > 90, "against her guess she does find keys: {found} of 100");
    assert!(wins.whole == 0 && wins.last_digit <= 22, "{wins:?}");
}

#[test]
fn searching_after_the_commitment_is_found_out() {
    // Mallory completes the exchange with Bob first and knows his digits. She gives Alice any
    // commitment, waits for Alice's key, and then searches for one that gives the same digits.
    let mut found = 0;
    for run in 0..20 {
        let middle = Middle::new(run);
        let to_bob = secret("mallory as alice", run);
        let digits_of_bob = middle.show_bob(to_bob).code().number();

        let committed = middle.as_bob(secret("mallory as bob", run));
        let (alice, reveal) = middle.alice().on_commit(bytes(&committed.1));
        let winner = (0..60).find_map(|i| {
            let candidate = middle.as_bob(secret("searched", run * 100 + i));
            let (mine, reveal) = candidate.0.on_reveal(bytes(&reveal)).unwrap();
            (mine.code().number() % 10 == digits_of_bob % 10).then_some(bytes(&reveal))
        });
        let Some(key) = winner else { continue };
        found += 1;
        assert_eq!(alice.on_reveal(key).err(), Some(SafetyError::CommitmentMismatch));
    }
    assert!(found > 15, "she does find keys, but they come too late: {found} of 20");
}

/// The code that must not be built: a hash of what both sides believe the keys to be.
fn naive_code(initiator: Fingerprint, responder: Fingerprint) -> u32 {
    let keys = [*initiator.as_bytes(), *responder.as_bytes()].concat();
    (u64::from_be_bytes(take(blake3::hash(&keys).as_bytes())) % 1_000_000) as u32
}

/// What a search for equal digits has found.
struct Collision {
    as_bob: Fingerprint,
    as_alice: Fingerprint,
    keys_made: u32,
}

/// Makes keys until one, shown to Alice as Bob's, and one, shown to Bob as Alice's, give the same
/// digits. By the birthday bound that takes about the square root of a million.
fn collide(alice: Fingerprint, bob: Fingerprint, pair: u32) -> Option<Collision> {
    let (mut alice_sees, mut bob_sees) = (HashMap::new(), HashMap::new());
    (0..BUDGET).find_map(|n| {
        let (key, keys_made) = (identity("mallory", pair * BUDGET + n), n + 1);
        let (to_alice, to_bob) = (naive_code(alice, key), naive_code(key, bob));
        alice_sees.insert(to_alice, key);
        bob_sees.insert(to_bob, key);
        if let Some(&as_alice) = bob_sees.get(&to_alice) {
            return Some(Collision { as_bob: key, as_alice, keys_made });
        }
        let as_bob = *alice_sees.get(&to_bob)?;
        Some(Collision { as_bob, as_alice: key, keys_made })
    })
}

/// Alice, Bob and, between them, Mallory with two identities.
struct Middle {
    run: u32,
    exchange: [u8; 16],
    alice: Fingerprint,
    bob: Fingerprint,
    as_alice: Fingerprint,
    as_bob: Fingerprint,
    alice_revealed: Option<(AwaitReveal, [u8; 32])>,
}

/// What Mallory holds after her commitment to Alice.
struct ToAlice {
    secret: [u8; 32],
    key_of_alice: [u8; 32],
}

impl Middle {
    fn new(run: u32) -> Self {
        let who = |name| identity(name, 0);
        Self {
            run,
            exchange: take(&secret("exchange", run)),
            alice: who("alice"),
            bob: who("bob"),
            as_alice: who("mallory as alice"),
            as_bob: who("mallory as bob"),
            alice_revealed: None,
        }
    }

    fn alice(&self) -> AwaitCommit {
        let fresh = secret("alice's key", self.run).into();
        Initiator::start_with_secret(fresh, self.exchange, self.alice, self.as_bob).0
    }

    fn as_bob(&self, secret: [u8; 32]) -> (AwaitInitiatorKey, Safety) {
        Responder::on_start_with_secret(secret.into(), self.exchange, self.as_bob, self.alice)
    }

    /// Mallory commits, and Alice reveals her key.
    fn commit_to_alice(&mut self, secret: [u8; 32]) -> ToAlice {
        let (_, commit) = self.as_bob(secret);
        let (alice, reveal) = self.alice().on_commit(bytes(&commit));
        let key_of_alice = bytes(&reveal);
        self.alice_revealed = Some((alice, key_of_alice));
        ToAlice { secret, key_of_alice }
    }

    /// What Mallory knows about the digits on Alice's screen.
    fn reveal_of_alice(&self, to_alice: &ToAlice) -> Compare {
        self.as_bob(to_alice.secret).0.on_reveal(to_alice.key_of_alice).unwrap().0
    }

    /// Mallory goes through the exchange with Bob; his screen shows this.
    fn show_bob(&self, secret_as_alice: [u8; 32]) -> Compare {
        let fresh = secret("bob's key", self.run).into();
        let (bob, commit) =
            Responder::on_start_with_secret(fresh, self.exchange, self.bob, self.as_alice);
        let (mallory, _) = Initiator::start_with_secret(
            secret_as_alice.into(),
            self.exchange,
            self.as_alice,
            self.bob,
        );
        let (mallory, reveal) = mallory.on_commit(bytes(&commit));
        let (bob, reveal) = bob.on_reveal(bytes(&reveal)).unwrap();
        let mallory = mallory.on_reveal(bytes(&reveal)).unwrap();
        assert_eq!(mallory.code(), bob.code(), "Mallory plays by the rules");
        bob
    }

    /// Both screens at the end.
    fn finish(&mut self, to_alice: ToAlice, to_bob: [u8; 32]) -> (u32, u32) {
        let (alice, key_of_alice) = self.alice_revealed.take().unwrap();
        let (_, reveal) = self.as_bob(to_alice.secret).0.on_reveal(key_of_alice).unwrap();
        let alice = alice.on_reveal(bytes(&reveal)).unwrap();
        (alice.code().number(), self.show_bob(to_bob).code().number())
    }
}

#[derive(Debug, Default)]
struct Wins {
    whole: usize,
    last_digit: usize,
}

impl Wins {
    fn count(&mut self, (alice, bob): (u32, u32)) {
        self.whole += usize::from(alice == bob);
        self.last_digit += usize::from(alice % 10 == bob % 10);
    }

    /// All six digits agree in none of the runs, the last one in a tenth of them.
    fn are_luck(&self) {
        assert!(self.whole == 0 && BY_CHANCE.contains(&self.last_digit), "{self:?}");
    }
}

/// A real Ed25519 key. The ML-DSA half may stay the same: one fresh key is enough for a fresh
/// fingerprint, so Mallory makes the cheap one.
fn identity(name: &str, n: u32) -> Fingerprint {
    let key = SigningKey::from_bytes(&secret(name, n)).verifying_key();
    fingerprint(key.as_bytes(), &[0; 32])
}

/// The n-th secret with this name: the whole test is a function of the names.
fn secret(name: &str, n: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("halloo brute force test");
    hasher.update(&n.to_be_bytes()).update(name.as_bytes());
    *hasher.finalize().as_bytes()
}

fn take<const N: usize>(bytes: &[u8; 32]) -> [u8; N] {
    *bytes.first_chunk().unwrap()
}

fn bytes(message: &Safety) -> [u8; 32] {
    match message.step {
        SafetyStep::Commit(b) | SafetyStep::RevealInitiator(b) | SafetyStep::RevealResponder(b) => {
            b
        }
        _ => panic!("not a step with a key"),
    }
}
