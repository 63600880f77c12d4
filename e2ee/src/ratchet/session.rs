//! One Olm session with another device.

use halloo_wire::inner::{Inner, Kind, Plain, RatchetType, Route};
use halloo_wire::limits::MAX_CONTENT;
use halloo_wire::{DecodeError, Reader, Seq, StreamId};
use vodozemac::olm::{DecryptionError, OlmMessage, Session, SessionConfig};
use zeroize::Zeroizing;

use super::{Parties, RatchetAccount, message, plain};
use crate::bundle::VerifiedBundle;
use crate::introduction::{IntroductionError, VerifiedIntroduction, verify_introduction};
use crate::store::{RestoreError, read_json, write_json};

/// Messages of one session that may be on their way at once, unacknowledged: Olm keeps the keys
/// of 40 skipped messages of a chain, and messages may arrive in any order.
pub const IN_FLIGHT: u64 = 32;

/// One end of an Olm session.
///
/// The caller stores it before a ciphertext leaves and before a plaintext is acknowledged, in the
/// same transaction: a session that is restored to an earlier state would encrypt two messages
/// with one key.
pub struct RatchetSession {
    olm: Session,
}

/// A message that a session has decrypted and whose claims all hold: it comes from the other
/// party, is meant for this device, and stands where it says in the stream.
///
/// It may still be one that the inbox has: the caller refuses a (stream, seq) that it knows.
pub struct VerifiedPlain {
    plain: Plain,
    introduction: Option<VerifiedIntroduction>,
}

/// Why a session cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The recipient has published a key with which no secret can be agreed.
    #[error("the recipient's ratchet keys are not usable")]
    UnusableKeys,
}

/// Why a message cannot be encrypted. The session is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// The content is longer than [`MAX_CONTENT`].
    #[error("the content is longer than a message can be")]
    TooLong,
    /// Places in a stream begin at 1.
    #[error("the place in the stream is none")]
    Place,
    /// The other side's ratchet key is one with which no secret can be agreed.
    #[error("the other side's ratchet key is not usable")]
    UnusableKeys,
}

/// Why a message is refused. Neither the session nor the account has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecryptError {
    /// The outside names another sender or recipient than the session's.
    #[error("the message is not from this sender to this device")]
    WrongRoute,
    /// The ratchet message is not one, or is written in a way that nobody writes it.
    #[error("the ratchet message cannot be read")]
    Malformed,
    /// The ratchet message is of another version of Olm, with shorter MACs.
    #[error("the ratchet message has an unsupported version")]
    UnsupportedVersion,
    /// The message belongs to another session, or begins one.
    #[error("the message belongs to another session")]
    OtherSession,
    /// The message begins no session. Asking for it again, under another session, helps.
    #[error("the message belongs to a session that is not here")]
    NotAFirstMessage,
    /// The message begins a session with another ratchet key than the sender's.
    #[error("the session is begun with a ratchet key that is not the sender's")]
    WrongRatchetKey,
    /// The message uses a one-time key that is used up, forgotten, or was never ours. Asking for
    /// it again, under another session, helps.
    #[error("the message uses a one-time key that is not here")]
    UnknownOneTimeKey,
    /// The session was begun before, with the same message or one after it.
    #[error("the session was begun before")]
    Replayed,
    /// Decrypted before, or so old that its key is gone. When the inbox does not have it, asking
    /// for it again helps.
    #[error("the message was read before, or its key is gone")]
    KeyGone,
    /// So far ahead of what has arrived that the session will not follow.
    #[error("the message is too far ahead")]
    TooFarAhead,
    /// Changed on the way, encrypted by somebody else, or from a chain that is so old that its
    /// keys are gone.
    #[error("the message is not authentic")]
    NotAuthentic,
    /// What was encrypted is not a message.
    #[error("the decrypted message cannot be read: {0}")]
    Plain(DecodeError),
    /// The inside says another route or kind than the outside: the ciphertext was moved.
    #[error("the message was moved from another place")]
    Moved,
    /// The inside names another pair of ratchet keys: it was meant for, or written by, another
    /// device.
    #[error("the message was encrypted between other devices")]
    OtherParties,
    /// The introduction that comes with it does not hold.
    #[error(transparent)]
    Introduction(#[from] IntroductionError),
}

impl RatchetSession {
    /// Begins a session with a bundle's owner. Takes the bundle's one-time key; without one, the
    /// fallback key serves.
    ///
    /// # Errors
    /// [`SessionError`] when the recipient's keys are broken.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn outbound(
        account: &RatchetAccount,
        bundle: &mut VerifiedBundle,
    ) -> Result<Self, SessionError> {
        let key = bundle.take_one_time_key().unwrap_or_else(|| bundle.fallback_key());
        let olm = account
            .begin(bundle.party().ratchet_key, key)
            .map_err(|_| SessionError::UnusableKeys)?;
        Ok(Self { olm })
    }

    /// Begins the session that a first message asks for, and reads the message.
    ///
    /// `parties.them` is the sender as a verified introduction or bundle shows it. An
    /// introduction inside the message is verified. The one-time key is used up. The caller
    /// stores the account and the session in one transaction.
    ///
    /// # Errors
    /// [`DecryptError`]; the account is unchanged.
    pub fn inbound(
        account: &mut RatchetAccount,
        inner: &Inner,
        parties: &Parties,
    ) -> Result<(Self, VerifiedPlain), DecryptError> {
        let introduction = check_outside(inner, parties)?;
        let OlmMessage::PreKey(first) = message::decode(inner)? else {
            return Err(DecryptError::NotAFirstMessage);
        };
        let (olm, plain) = account.answer(parties.them.ratchet_key, &first, |plaintext| {
            check_inside(inner, parties, plaintext)
        })?;
        Ok((Self { olm }, VerifiedPlain { plain, introduction }))
    }

    /// Encrypts a message from `parties.us` to `parties.them`. An encoded introduction goes along
    /// if given. `seq` is the message's place or, for kinds outside of the stream, the first place
    /// that is not encrypted yet ([`Route::seq`]).
    ///
    /// The bytes are made once and sent as they are, however often and on whatever path. The
    /// caller stores them with the session before they leave.
    ///
    /// # Errors
    /// [`ComposeError`]; the session is unchanged.
    pub fn compose(
        &mut self,
        parties: &Parties,
        stream: StreamId,
        seq: Seq,
        kind: Kind,
        content: &[u8],
        introduction: Option<&[u8]>,
    ) -> Result<Inner, ComposeError> {
        if seq.0 == 0 {
            return Err(ComposeError::Place);
        }
        let route = parties.outgoing(stream, seq);
        let (ratchet_type, ratchet) = self.encrypt(&plain(parties, route, kind, content))?;
        let introduction = introduction.map(<[u8]>::to_vec);
        Ok(Inner { route, kind, introduction, ratchet_type, ratchet })
    }

    /// Encrypts a plaintext. [`RatchetSession::compose`] builds the whole message.
    ///
    /// # Errors
    /// [`ComposeError`]; the session is unchanged.
    pub fn encrypt(&mut self, plain: &Plain) -> Result<(RatchetType, Vec<u8>), ComposeError> {
        if plain.content.len() > MAX_CONTENT {
            return Err(ComposeError::TooLong);
        }
        let plaintext = Zeroizing::new(plain.encode());
        let message = self.olm.encrypt(&*plaintext).map_err(|_| ComposeError::UnusableKeys)?;
        let ratchet_type = match message {
            OlmMessage::PreKey(_) => RatchetType::PreKey,
            OlmMessage::Normal(_) => RatchetType::Normal,
        };
        Ok((ratchet_type, message.to_parts().1))
    }

    /// Decrypts a message from `parties.them` and checks all that it claims: route, kind, both
    /// ratchet keys, and the introduction if there is one.
    ///
    /// # Errors
    /// [`DecryptError`]; the session is unchanged.
    pub fn decrypt_checked(
        &mut self,
        inner: &Inner,
        parties: &Parties,
    ) -> Result<VerifiedPlain, DecryptError> {
        let (olm, plain) = self.read(inner, parties)?;
        self.olm = olm;
        Ok(plain)
    }

    /// Like [`RatchetSession::decrypt_checked`], but leaves the session where it is: for what comes
    /// before its turn. The same message can be read again.
    ///
    /// # Errors
    /// [`DecryptError`].
    pub fn peek(&self, inner: &Inner, parties: &Parties) -> Result<VerifiedPlain, DecryptError> {
        self.read(inner, parties).map(|(_, plain)| plain)
    }

    /// Decrypts on a copy.
    fn read(
        &self,
        inner: &Inner,
        parties: &Parties,
    ) -> Result<(Session, VerifiedPlain), DecryptError> {
        let introduction = check_outside(inner, parties)?;
        let message = message::decode(inner)?;
        if matches!(&message, OlmMessage::PreKey(m) if m.session_keys() != self.olm.session_keys())
        {
            return Err(DecryptError::OtherSession);
        }
        let mut olm = Session::from_pickle(self.olm.pickle());
        let plaintext = Zeroizing::new(olm.decrypt(&message)?);
        let plain = check_inside(inner, parties, &plaintext)?;
        Ok((olm, VerifiedPlain { plain, introduction }))
    }

    /// Whether `inner` carries the keys with which this session was begun. Messages that carry
    /// none have to be tried.
    pub fn matches(&self, inner: &Inner) -> bool {
        matches!(
            message::decode(inner),
            Ok(OlmMessage::PreKey(m)) if m.session_keys() == self.olm.session_keys()
        )
    }

    /// Names the session, the same at both ends. Not a secret.
    pub fn id(&self) -> String {
        self.olm.session_id()
    }

    /// Whether the other side has answered in this session, or begun it. Until then each message
    /// carries the keys that begin it.
    pub fn has_heard(&self) -> bool {
        self.olm.has_received_message()
    }

    /// The bytes for the store.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(vec![STORE_VERSION]);
        write_json(&mut out, &self.olm.pickle());
        out
    }

    /// Reads what [`RatchetSession::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            STORE_VERSION => {}
            other => return Err(DecodeError::UnsupportedVersion(other).into()),
        }
        let olm = Session::from_pickle(read_json(r.rest())?);
        if olm.session_config() != SessionConfig::version_2() {
            return Err(RestoreError::UnsupportedVersion);
        }
        Ok(Self { olm })
    }
}

impl VerifiedPlain {
    /// Who wrote to whom, and where it stands in the stream.
    pub fn route(&self) -> &Route {
        &self.plain.route
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.plain.kind
    }

    /// What is said.
    pub fn content(&self) -> &[u8] {
        &self.plain.content
    }

    /// The sender's introduction, if it came along.
    pub fn introduction(&self) -> Option<&VerifiedIntroduction> {
        self.introduction.as_ref()
    }
}

impl From<DecryptionError> for DecryptError {
    fn from(e: DecryptionError) -> Self {
        match e {
            DecryptionError::MissingMessageKey(_) => Self::KeyGone,
            DecryptionError::TooBigMessageGap(..) => Self::TooFarAhead,
            DecryptionError::InvalidMACLength(..) => Self::UnsupportedVersion,
            DecryptionError::InvalidMAC(_)
            | DecryptionError::InvalidPadding(_)
            | DecryptionError::NonContributoryKey => Self::NotAuthentic,
        }
    }
}

/// Checks what needs no decryption.
fn check_outside(
    inner: &Inner,
    parties: &Parties,
) -> Result<Option<VerifiedIntroduction>, DecryptError> {
    if !parties.is_incoming(&inner.route) {
        return Err(DecryptError::WrongRoute);
    }
    match &inner.introduction {
        None => Ok(None),
        Some(bytes) => {
            let introduction = verify_introduction(bytes)?;
            if introduction.party() != parties.them {
                return Err(IntroductionError::WrongSender.into());
            }
            Ok(Some(introduction))
        }
    }
}

/// Compares the decrypted inside with the outside and with the session's ends.
fn check_inside(inner: &Inner, parties: &Parties, bytes: &[u8]) -> Result<Plain, DecryptError> {
    let plain = Plain::decode(bytes).map_err(DecryptError::Plain)?;
    if plain.route != inner.route || plain.kind != inner.kind {
        return Err(DecryptError::Moved);
    }
    if plain.from_ratchet_key != parties.them.ratchet_key
        || plain.to_ratchet_key != parties.us.ratchet_key
    {
        return Err(DecryptError::OtherParties);
    }
    Ok(plain)
}

const STORE_VERSION: u8 = 1;
