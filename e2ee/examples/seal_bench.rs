//! Prints how long it takes to seal, open, encrypt and decrypt a message of 1 KiB.
//!
//! ```text
//! cargo run --release -p halloo-e2ee --example seal_bench
//! ```

#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::error::Error;
use std::time::Instant;

use halloo_e2ee::{
    Parties, Party, RatchetAccount, RatchetSession, UnixTime, VerifiedBundle, introduce,
    make_bundle, open, seal, verify_introduction,
};
use halloo_identity::Identity;
use halloo_wire::envelope::Lane;
use halloo_wire::inner::Kind;
use halloo_wire::peer::Found;
use halloo_wire::{DeviceId, Seq, StreamId};

const RUNS: usize = 1001;
const NOW: UnixTime = UnixTime(1_800_000_000);

fn main() -> Result<(), Box<dyn Error>> {
    let text = [7; 1024];
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let (alice_account, mut bob_account) = (RatchetAccount::generate(), RatchetAccount::generate());
    let (bundle, one_time_keys, secrets) = make_bundle(&bob, &mut bob_account, 1, NOW);
    let found = Found {
        passport: bob.passport_der().to_vec(),
        bundle: bundle.encode(),
        one_time_keys,
        one_time_key: Some(0),
    };
    let me = bob.fingerprint();
    let verify = || VerifiedBundle::verify(&found, &me, DeviceId::FIRST, NOW, None);
    let mut bundle = verify()?;
    let introduction = introduce(&alice, alice_account.olm_identity()).encode();

    println!("median of {RUNS}, 1 KiB of content");
    report("verify a bundle", || verify().map(drop))?;
    report("verify an introduction", || verify_introduction(&introduction).map(drop))?;

    let alice_sees = Parties { us: party(&alice, &alice_account), them: bundle.party() };
    let bob_sees = Parties { us: alice_sees.them, them: alice_sees.us };
    let mut session = RatchetSession::outbound(&alice_account, &mut bundle)?;
    let mut seq = 0;
    let mut compose = || {
        seq += 1;
        session.compose(&alice_sees, StreamId(1), Seq(seq), Kind::Message, &text, None)
    };
    let first = compose()?;
    // Each run needs an account that still has the one-time key. Reading one is not timed.
    let stored = bob_account.to_bytes();
    let mut accounts = (0..RUNS)
        .map(|_| RatchetAccount::from_bytes(&stored))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter();
    report("begin a session from its first message", || match accounts.next() {
        Some(mut account) => RatchetSession::inbound(&mut account, &first, &bob_sees).map(drop),
        None => Ok(()),
    })?;
    let (mut bob_session, _) = RatchetSession::inbound(&mut bob_account, &first, &bob_sees)?;

    let mut inners = Vec::with_capacity(RUNS);
    report("encrypt (ratchet)", || compose().map(|inner| inners.push(inner)))?;
    let mut next = inners.iter();
    report("decrypt (ratchet)", || match next.next() {
        Some(inner) => bob_session.decrypt_checked(inner, &bob_sees).map(drop),
        None => Ok(()),
    })?;

    let long = first.encode();
    for inner in [&long[..1000], &long] {
        let envelope = seal(&bundle, Lane::Contacts, inner)?;
        println!("a message of {} B in an envelope of {} B", inner.len(), envelope.len());
        report("seal", || seal(&bundle, Lane::Contacts, inner).map(drop))?;
        report("open", || open(&envelope, &me, |_| Some(&secrets)).map(drop))?;
    }
    Ok(())
}

fn report<E>(what: &str, mut run: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("{:>9.1} us {what}", times[RUNS / 2].as_secs_f64() * 1e6);
    Ok(())
}

fn party(identity: &Identity, account: &RatchetAccount) -> Party {
    Party {
        fingerprint: identity.fingerprint(),
        device: identity.device_id(),
        ratchet_key: account.olm_identity(),
    }
}
