//! Entry points for fuzzing: each takes anything and panics when a promise does not hold.

use crate::probe::Message;

/// The inside of a probe: what is read encodes to the same bytes, but for flags of later versions.
pub fn probe_plaintext(data: &[u8]) {
    if let Ok(message) = Message::decode(data) {
        let again = message.encode();
        assert_eq!(Message::decode(&again), Ok(message));
        if data[1] <= Message::ALL_FLAGS {
            assert_eq!(again, data);
        }
    }
}
