//! The textual form of key files: PEM (RFC 7468) around a versioned, checked binary.
//!
//! ```text
//! -----BEGIN HALLOO IDENTITY-----
//! base64 of: version 1 | content | BLAKE3 check 32
//! -----END HALLOO IDENTITY-----
//! ```
//!
//! The check is a hash in a context of its own over version and content. It finds damage; it does
//! not keep anybody out. Who can read the file has the keys, so its permissions matter.

use data_encoding::BASE64;
use halloo_wire::{DecodeError, Reader};
use zeroize::Zeroizing;

/// Longest key file. An identity takes about 1.2 kB.
const MAX_FILE: usize = 16 * 1024;
/// Characters in a line of base64 (RFC 7468).
const LINE: usize = 64;
const VERSION: u8 = 1;

/// Why a text is not a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Longer than any key file.
    #[error("the key file is longer than any key file is")]
    TooLong,
    /// The BEGIN and END lines are missing or those of another kind of file.
    #[error("this is not a key file of this kind: it has no \"-----BEGIN {0}-----\" block")]
    Label(&'static str),
    /// What stands between the lines is not base64.
    #[error("the key file is damaged: it is not base64")]
    Base64,
    /// Written by a later program.
    #[error("the key file has version {0}, which this program does not know")]
    Version(u8),
    /// Bytes are missing or changed.
    #[error("the key file is damaged: its check does not match")]
    Check,
    /// The check holds but the content is not keys and the certificates that fit them.
    #[error("the key file's content is not valid")]
    Content,
}

impl From<DecodeError> for KeyFileError {
    fn from(_: DecodeError) -> Self {
        Self::Content
    }
}

/// One kind of key file.
pub(crate) struct Kind {
    /// The word in the BEGIN and END lines.
    pub(crate) label: &'static str,
    /// The context of the check.
    pub(crate) context: &'static str,
}

impl Kind {
    /// Writes the file around `content`.
    pub(crate) fn wrap(&self, content: &[u8]) -> Zeroizing<String> {
        let mut binary = Zeroizing::new(Vec::with_capacity(1 + content.len() + 32));
        binary.push(VERSION);
        binary.extend_from_slice(content);
        let check = blake3::derive_key(self.context, &binary);
        binary.extend_from_slice(&check);

        // Reserved as a whole, so that growing leaves no copy of the secrets behind.
        let base64 = Zeroizing::new(BASE64.encode(&binary));
        let room = base64.len() + base64.len() / LINE + 2 * self.label.len() + 64;
        let mut out = Zeroizing::new(String::with_capacity(room));
        out.push_str("-----BEGIN ");
        out.push_str(self.label);
        out.push_str("-----\n");
        let mut rest = base64.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(LINE));
            out.push_str(line);
            out.push('\n');
            rest = tail;
        }
        out.push_str("-----END ");
        out.push_str(self.label);
        out.push_str("-----\n");
        out
    }

    /// Reads the file and gives its content. Text around the block is passed over.
    pub(crate) fn unwrap(&self, text: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        if text.len() > MAX_FILE {
            return Err(KeyFileError::TooLong);
        }
        let begin = format!("-----BEGIN {}-----", self.label);
        let end = format!("-----END {}-----", self.label);
        let block = text
            .split_once(&begin)
            .and_then(|(_, rest)| rest.split_once(&end))
            .map(|(block, _)| block)
            .ok_or(KeyFileError::Label(self.label))?;

        let mut base64 = Zeroizing::new(Vec::with_capacity(block.len()));
        base64.extend(block.bytes().filter(|b| !b.is_ascii_whitespace()));
        let binary = BASE64.decode(&base64).map_err(|_| KeyFileError::Base64)?;
        let binary = Zeroizing::new(binary);

        let version = *binary.first().ok_or(KeyFileError::Check)?;
        // Before the check: another version may check in another way.
        if version != VERSION {
            return Err(KeyFileError::Version(version));
        }
        let (body, check) = binary.split_last_chunk::<32>().ok_or(KeyFileError::Check)?;
        if blake3::derive_key(self.context, body) != *check {
            return Err(KeyFileError::Check);
        }
        let mut r = Reader::new(body);
        r.u8()?;
        Ok(Zeroizing::new(r.rest().to_vec()))
    }
}
