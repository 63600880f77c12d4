//! The key of a parked registration, and what is sealed with it ([`halloo_wire::parked`]).

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use halloo_wire::parked::{HEADER_LEN, Keepalive, Sealed, Sender, Word};
use halloo_wire::{DecodeError, PARKING_LABEL, RowId};
use zeroize::{Zeroize, Zeroizing};

/// Why something sealed is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It was sealed with another key, or changed on the way.
    #[error("it was not sealed with this key")]
    Forged,
    /// It was sealed with this key, and is no message.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
}

/// The key that a node and its peer share for one parked registration: 32 bytes, drawn by both from
/// the TLS session that registered (RFC 8446, 7.5) with the label
/// [`PARKING_LABEL`] and the row as context. It does not print, and is
/// wiped when dropped.
///
/// ChaCha20-Poly1305 (RFC 8439) seals under it. The nonce is the sender (1 node, 2 peer) | zeros 3 |
/// counter 8, and the 19 bytes in front are the associated data: a counter must be used once by each
/// side.
pub struct ParkingKey(Zeroizing<[u8; 32]>);

impl ParkingKey {
    /// A key whose bytes are known. For tests and models of the protocol.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Draws the key for `row` from a connection.
    pub(crate) fn export(connection: &quinn::Connection, row: RowId) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        // The output is far below the limit, which is the only reason to fail.
        connection
            .export_keying_material(&mut *key, PARKING_LABEL, &row.0.to_be_bytes())
            .expect("TLS 1.3 exports 32 bytes");
        Self(key)
    }

    /// The whole datagram of a node that says `keepalive`.
    pub fn seal_keepalive(&self, row: RowId, counter: u64, keepalive: &Keepalive) -> Vec<u8> {
        self.seal(Sender::Node, row, counter, keepalive.encode())
    }

    /// The whole datagram of a peer that says `word`.
    pub fn seal_word(&self, row: RowId, counter: u64, word: &Word) -> Vec<u8> {
        self.seal(Sender::Peer, row, counter, word.encode())
    }

    /// What a node says.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open_keepalive(&self, sealed: &Sealed<'_>) -> Result<Keepalive, OpenError> {
        Ok(Keepalive::decode(&self.open(Sender::Node, sealed)?)?)
    }

    /// What a peer says.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open_word(&self, sealed: &Sealed<'_>) -> Result<Word, OpenError> {
        Ok(Word::decode(&self.open(Sender::Peer, sealed)?)?)
    }

    fn seal(&self, sender: Sender, row: RowId, counter: u64, mut plain: Vec<u8>) -> Vec<u8> {
        let header = Sealed::header(sender, row, counter);
        let payload = Payload { msg: &plain, aad: &header };
        let sealed = self.cipher().encrypt(&nonce(&header), payload);
        let sealed = sealed.expect("a datagram is far below the cipher's limit");
        plain.zeroize();
        [&header[..], &sealed].concat()
    }

    fn open(&self, sender: Sender, it: &Sealed<'_>) -> Result<Vec<u8>, OpenError> {
        let header = Sealed::header(sender, it.row, it.counter);
        let payload = Payload { msg: it.sealed, aad: &header };
        self.cipher().decrypt(&nonce(&header), payload).map_err(|_| OpenError::Forged)
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&Key::from(*self.0))
    }
}

impl std::fmt::Debug for ParkingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ParkingKey(…)")
    }
}

fn nonce(header: &[u8; HEADER_LEN]) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = header[2];
    nonce[4..].copy_from_slice(&header[11..]);
    Nonce::from(nonce)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use halloo_wire::EnvelopeId;
    use halloo_wire::parked::ParkedDatagram;
    use proptest::prelude::*;

    const ROW: RowId = RowId(7);

    fn key() -> ParkingKey {
        ParkingKey::from_bytes([3; 32])
    }

    fn keepalive() -> Keepalive {
        Keepalive { cookie: 9, rung: 2, taken: vec![EnvelopeId(5)] }
    }

    fn sealed(datagram: &[u8]) -> Sealed<'_> {
        match ParkedDatagram::decode(datagram).unwrap() {
            ParkedDatagram::Keepalive(it) | ParkedDatagram::Word(it) => it,
            ParkedDatagram::Unknown { .. } => panic!("nobody sealed this"),
        }
    }

    /// Anybody can compute these: RFC 8439 with the nonce and the associated data of the
    /// documentation.
    #[test]
    fn the_sealed_bytes_are_those_of_the_documentation() {
        let datagram = key().seal_word(ROW, 42, &Word::Challenge { cookie: 0x0102_0304_0506_0708 });
        let hex: String = datagram.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str =
        "0701020000000000000007000000000000002ad0bbf6126c882190844191ae018865c60eed53f267335ab2df";

    #[test]
    fn each_side_opens_what_the_other_sealed_and_not_its_own() {
        let (ours, theirs) = (keepalive(), Word::Heard { counter: 1, waiting: 2 });
        let said = key().seal_keepalive(ROW, 1, &ours);
        let heard = key().seal_word(ROW, 1, &theirs);
        assert_eq!(key().open_keepalive(&sealed(&said)), Ok(ours));
        assert_eq!(key().open_word(&sealed(&heard)), Ok(theirs));
        assert_eq!(key().open_word(&sealed(&said)), Err(OpenError::Forged));
        assert_eq!(key().open_keepalive(&sealed(&heard)), Err(OpenError::Forged));
        let other = ParkingKey::from_bytes([4; 32]);
        assert_eq!(other.open_keepalive(&sealed(&said)), Err(OpenError::Forged));
        assert_eq!(format!("{:?}", key()), "ParkingKey(…)");
    }

    proptest! {
        #[test]
        fn every_changed_bit_is_noticed(place: proptest::sample::Index, bit in 0u8..8) {
            let mut datagram = key().seal_keepalive(ROW, 77, &keepalive());
            let place = place.index(datagram.len());
            datagram[place] ^= 1 << bit;
            if let Ok(ParkedDatagram::Keepalive(it)) = ParkedDatagram::decode(&datagram) {
                prop_assert_eq!(key().open_keepalive(&it), Err(OpenError::Forged));
            }
        }

        #[test]
        fn noise_is_not_opened(counter: u64, noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let it = Sealed { row: ROW, counter, sealed: &noise };
            prop_assert_eq!(key().open_keepalive(&it), Err(OpenError::Forged));
            prop_assert_eq!(key().open_word(&it), Err(OpenError::Forged));
        }
    }
}
