//! A reader and a writer for hand-written encodings: big-endian, length before content, no
//! trailing bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why some bytes are not a message. Small and `Copy`, so that refusing costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("the message is cut short")]
    Truncated,
    /// A length, or the message as a whole, is beyond its limit.
    #[error("the message is longer than its limit")]
    TooLong,
    /// Bytes follow the value.
    #[error("bytes follow the end of the message")]
    TrailingBytes,
    /// The leading type or kind byte is not known.
    #[error("unknown message type {0:#04x}")]
    UnknownType(u8),
    /// The version byte is not one that this program speaks.
    #[error("unsupported version {0}")]
    UnsupportedVersion(u8),
    /// A field holds a value that it may not hold; the text names the field.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// Reads a value from the front of a byte slice.
///
/// Each method either consumes exactly what it returns or fails and leaves the reader unusable
/// for the caller's purpose: on the first error the whole message is refused.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes the next `n` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// Takes a fixed-size array.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when fewer than `N` bytes are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// Takes a big-endian 16-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Takes a big-endian 32-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Takes a big-endian 64-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Takes a 16-bit length and that many bytes, at most `limit`.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] beyond `limit`, [`DecodeError::Truncated`] at the end.
    pub fn bytes16(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let n = usize::from(self.u16()?);
        if n > limit {
            return Err(DecodeError::TooLong);
        }
        self.take(n)
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] when something is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// Appends values to a byte vector; the counterpart of [`Reader`].
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty writer with room for `n` bytes.
    pub fn with_capacity(n: usize) -> Self {
        Self { out: Vec::with_capacity(n) }
    }

    /// Appends bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.put(&[v])
    }

    /// Appends a big-endian 16-bit number.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.put(&v.to_be_bytes())
    }

    /// Appends a big-endian 32-bit number.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.put(&v.to_be_bytes())
    }

    /// Appends a big-endian 64-bit number.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.put(&v.to_be_bytes())
    }

    /// Appends a 16-bit length and the bytes.
    ///
    /// # Panics
    /// When `bytes` is longer than 65,535: every caller's limit is below that.
    pub fn bytes16(&mut self, bytes: &[u8]) -> &mut Self {
        let n = u16::try_from(bytes.len()).expect("fields are limited below 64 KiB");
        self.u16(n).put(bytes)
    }

    /// The bytes written.
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }
}

/// Encodes a control message as postcard.
///
/// # Panics
/// Never for this crate's types: none of them has a shape that postcard cannot write.
pub fn encode_control<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("control messages have only shapes that postcard writes")
}

/// Decodes a control message of at most `limit` bytes.
///
/// # Errors
/// [`DecodeError::TooLong`] beyond `limit`; [`DecodeError::Truncated`], [`DecodeError::TrailingBytes`]
/// or [`DecodeError::Invalid`] when the bytes are not exactly one value.
pub fn decode_control<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(DecodeError::TrailingBytes),
        Err(postcard::Error::DeserializeUnexpectedEnd) => Err(DecodeError::Truncated),
        Err(_) => Err(DecodeError::Invalid("control message")),
    }
}
