//! Contact cards: what one gives to somebody who should be able to write first.

use data_encoding::BASE64URL_NOPAD;
use halloo_wire::limits::{MAX_NAME, MAX_PASSPORT};
use halloo_wire::prekey::ED25519_SIG_LEN;
use halloo_wire::{DecodeError, Fingerprint, Reader, Writer};

use crate::address::{Address, PeerAddress};
use crate::identity::Identity;
use crate::passport::{Passport, PassportError};
use crate::peers;
use crate::signature::{SignatureError, SignatureRole};

/// Longest encoded card: a passport, a name and three peers with the longest host names.
pub const MAX_CARD: usize = 2 * 1024;

const VERSION: u8 = 1;
/// What a card's text begins with.
const TEXT_PREFIX: &str = "halloo-card:";

/// A signed contact card. What it says is claimed until [`ContactCard::verify`] has looked.
///
/// ```text
/// version 1 | seq 8 | passport (16-bit length) | name (16-bit length) | peers | Ed25519 signature 64
/// ```
///
/// Its text form, for files, messages and QR codes, is `halloo-card:` and unpadded base64url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactCard {
    /// The owner's passport, DER.
    pub passport: Vec<u8>,
    /// Counts the owner's cards: the highest is the one that holds.
    pub seq: u64,
    /// The name that the owner gives herself; may be empty. Not proof of anything.
    pub name: String,
    /// The owner's rendezvous peers in order of preference, 1 to 3.
    pub peers: Vec<PeerAddress>,
    /// The passport's signature over everything above.
    pub signature: [u8; ED25519_SIG_LEN],
}

impl ContactCard {
    /// Makes and signs a card.
    ///
    /// # Errors
    /// [`CardError::Name`] or [`CardError::Peers`] when a part is beyond its limit.
    pub fn sign(
        identity: &Identity,
        seq: u64,
        name: &str,
        peers: Vec<PeerAddress>,
    ) -> Result<Self, CardError> {
        if !is_name(name) {
            return Err(CardError::Name);
        }
        if !peers::is_valid(&peers) {
            return Err(CardError::Peers);
        }
        let passport = identity.passport_der().to_vec();
        let mut card = Self { passport, seq, name: name.to_owned(), peers, signature: [0; _] };
        card.signature = identity.sign(SignatureRole::ContactCard, &card.signed_bytes());
        Ok(card)
    }

    /// The card's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.signed_bytes();
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads a card. The signature is not checked.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one card.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_CARD {
            return Err(DecodeError::TooLong);
        }
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        let seq = r.u64()?;
        let passport = r.bytes16(MAX_PASSPORT)?.to_vec();
        let name = std::str::from_utf8(r.bytes16(MAX_NAME)?)
            .ok()
            .filter(|name| is_name(name))
            .ok_or(DecodeError::Invalid("name"))?
            .to_owned();
        let peers = peers::read(&mut r)?;
        let signature = r.array()?;
        r.finish()?;
        Ok(Self { passport, seq, name, peers, signature })
    }

    /// The card as one line of text.
    pub fn to_text(&self) -> String {
        format!("{TEXT_PREFIX}{}", BASE64URL_NOPAD.encode(&self.encode()))
    }

    /// Reads the text form; white space anywhere is forgiven, as mail programs break lines.
    ///
    /// # Errors
    /// [`CardError::Text`] or [`CardError::Decode`] when it is no card.
    pub fn from_text(text: &str) -> Result<Self, CardError> {
        // Base64 is a third longer than the card; beyond it nothing needs to be looked at.
        if text.len() > 2 * MAX_CARD {
            return Err(CardError::Decode(DecodeError::TooLong));
        }
        let text: String = text.split_whitespace().collect();
        let (prefix, base64) = text.split_at_checked(TEXT_PREFIX.len()).ok_or(CardError::Text)?;
        if !prefix.eq_ignore_ascii_case(TEXT_PREFIX) {
            return Err(CardError::Text);
        }
        let bytes = BASE64URL_NOPAD.decode(base64.as_bytes()).map_err(|_| CardError::Text)?;
        Ok(Self::decode(&bytes)?)
    }

    /// Checks the passport and its signature.
    ///
    /// # Errors
    /// [`CardError`] names what does not hold.
    pub fn verify(&self) -> Result<VerifiedCard, CardError> {
        let passport = Passport::verify(&self.passport)?;
        passport.verify_ed25519(
            SignatureRole::ContactCard,
            &self.signed_bytes(),
            &self.signature,
        )?;
        Ok(VerifiedCard {
            passport,
            seq: self.seq,
            name: self.name.clone(),
            peers: self.peers.clone(),
        })
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(512);
        w.u8(VERSION).u64(self.seq).bytes16(&self.passport).bytes16(self.name.as_bytes());
        peers::write(&mut w, &self.peers);
        w.into_vec()
    }
}

/// A card whose signature holds. Only [`ContactCard::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCard {
    passport: Passport,
    seq: u64,
    name: String,
    peers: Vec<PeerAddress>,
}

impl VerifiedCard {
    /// The owner's passport.
    pub fn passport(&self) -> &Passport {
        &self.passport
    }

    /// The owner's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.passport.fingerprint()
    }

    /// Counts the owner's cards.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The name that the owner gives herself; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The owner's rendezvous peers in order of preference.
    pub fn peers(&self) -> &[PeerAddress] {
        &self.peers
    }

    /// The owner's addresses in order of preference, at least one.
    pub fn addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.peers.iter().map(|peer| Address {
            peer: peer.host.clone(),
            peer_key: peer.key,
            fingerprint: self.fingerprint(),
        })
    }
}

/// Why a contact card cannot be made or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// The name is too long or has control characters.
    #[error("a name has at most {MAX_NAME} bytes and no control characters")]
    Name,
    /// None, or too many.
    #[error("a card lists one to three rendezvous peers")]
    Peers,
    /// Not the text form of a card.
    #[error("this is not the text of a contact card")]
    Text,
    /// The bytes are not a card.
    #[error("the contact card cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The passport is not valid.
    #[error(transparent)]
    Passport(#[from] PassportError),
    /// The card was changed, or not signed by its owner.
    #[error("the contact card's signature does not hold: {0}")]
    Signature(#[from] SignatureError),
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}
