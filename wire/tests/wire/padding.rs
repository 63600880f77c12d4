//! What an envelope's size may tell.

use halloo_wire::DecodeError;
use halloo_wire::envelope::{OVERHEAD, pad, padded_len, unpad};
use halloo_wire::limits::{
    CLASS_LARGE, CLASS_MEDIUM, CLASS_SMALL, MAX_ENVELOPE, MAX_INNER, MAX_PADDED,
};
use proptest::prelude::*;

/// The length field of the padding.
const PREFIX: usize = 2;

#[test]
fn sizes_up_to_the_largest_grow_in_classes() {
    let mut previous = 0;
    for len in 0..=MAX_PADDED {
        let padded = padded_len(len);
        assert!(padded >= len, "{len} does not fit {padded}");
        assert!(padded >= previous, "{len} pads to {padded}, one byte less to {previous}");
        assert!(padded <= MAX_PADDED);
        assert_eq!(padded_len(padded), padded, "a class is its own class");
        if len > CLASS_LARGE {
            assert!((padded - len) * 100 <= len * 12, "{len} pads to {padded}: over 12 %");
        }
        previous = padded;
    }
}

#[test]
fn small_messages_look_alike() {
    assert_eq!(padded_len(0), CLASS_SMALL);
    assert_eq!(padded_len(CLASS_SMALL), CLASS_SMALL);
    assert_eq!(padded_len(CLASS_SMALL + 1), CLASS_MEDIUM);
    assert_eq!(padded_len(CLASS_MEDIUM + 1), CLASS_LARGE);
    assert_eq!(padded_len(CLASS_LARGE + 1), 17 * 1024);
}

#[test]
fn there_are_few_sizes() {
    let mut classes: Vec<usize> = (0..=MAX_PADDED).map(padded_len).collect();
    classes.dedup();
    assert_eq!(classes.len(), 29);
}

#[test]
fn the_longest_message_fits_the_largest_envelope() {
    let padded = pad(&vec![7; MAX_INNER]).unwrap();
    assert_eq!(padded.len(), padded_len(MAX_INNER + PREFIX));
    assert!(padded.len() <= MAX_PADDED);
    assert_eq!(MAX_ENVELOPE, MAX_PADDED + OVERHEAD);
    // Noise counts its messages in 16 bits.
    assert!(MAX_PADDED + 48 <= usize::from(u16::MAX));

    assert_eq!(pad(&vec![7; MAX_INNER + 1]), Err(DecodeError::TooLong));
}

#[test]
fn padding_has_one_form() {
    let padded = pad(b"hello").unwrap();
    assert_eq!(unpad(&padded), Ok(&b"hello"[..]));

    let invalid = Err(DecodeError::Invalid("padding"));
    assert_eq!(unpad(&padded[..padded.len() - 1]), invalid, "shorter than its class");
    assert_eq!(unpad(&[&padded[..], &[0; CLASS_MEDIUM - CLASS_SMALL]].concat()), invalid, "longer");
    for place in [7, 100, CLASS_SMALL - 1] {
        let mut marked = padded.clone();
        marked[place] = 1;
        assert_eq!(unpad(&marked), invalid, "something hidden at {place}");
    }

    let mut overlong = padded;
    overlong[..2].copy_from_slice(&(MAX_INNER as u16 + 1).to_be_bytes());
    assert_eq!(unpad(&overlong), Err(DecodeError::TooLong));
    assert_eq!(unpad(&[]), Err(DecodeError::Truncated));
    assert_eq!(unpad(&[0, 5, 1]), Err(DecodeError::Truncated));
}

proptest! {
    #[test]
    fn padding_comes_off_again(len in 0..=MAX_INNER, fill: u8) {
        let plain = vec![fill; len];
        let padded = pad(&plain).unwrap();
        prop_assert_eq!(padded.len(), padded_len(len + PREFIX));
        prop_assert_eq!(unpad(&padded), Ok(&plain[..]));
    }
}
