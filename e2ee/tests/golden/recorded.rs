//! Who and what the recorded bytes are about, for those who record and those who read them.
#![allow(clippy::unwrap_used)]

use halloo_e2ee::{Party, RatchetAccount};
use halloo_identity::{Identity, Seeds};
use halloo_wire::candidate::{Allocation, Candidate, CandidateKind, Card, Dependence, Verdict};

pub(crate) fn alice() -> Identity {
    Identity::from_seeds(Seeds { passport: [1; 32], ml_dsa: [2; 32], device: [3; 32] })
}

pub(crate) fn bob() -> Identity {
    Identity::from_seeds(Seeds { passport: [4; 32], ml_dsa: [5; 32], device: [6; 32] })
}

pub(crate) fn party(identity: &Identity, account: &RatchetAccount) -> Party {
    Party {
        fingerprint: identity.fingerprint(),
        device: identity.device_id(),
        ratchet_key: account.olm_identity(),
    }
}

pub(crate) fn card() -> Card {
    Card {
        round: None,
        again: None,
        verdict: Verdict {
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressDependent,
            allocation: Allocation::Preserving,
        },
        local_port: 4000,
        birthday: false,
        candidates: vec![Candidate {
            kind: CandidateKind::Host,
            addr: "192.0.2.7:4000".parse().unwrap(),
        }],
    }
}
