//! Comparing a safety code.

use halloo_identity::Fingerprint;
use halloo_identity::safety::TypedCode;

use crate::contact::Verification;
use crate::error::{EventError, SafetyError, StoreError};
use crate::event::{EventKind, SafetyState};
use crate::node::Node;
use crate::stream::EventStream;

/// One comparison of a six-digit code with a contact.
///
/// Both people see the same six digits if nobody stands between them. Each types what the other
/// reads out, by voice. It works while both are online and through mailboxes too; it goes on after
/// a restart. Dropping this gives nothing up: [`Node::check_safety`] joins the same comparison
/// again.
///
/// Each run that does not end well counts, and three of them lock the comparison for an hour:
/// an attacker has three guesses in a million.
#[derive(Debug)]
pub struct SafetyCheck {
    node: Node,
    contact: Fingerprint,
    events: EventStream,
    state: SafetyState,
}

impl SafetyCheck {
    pub(crate) fn new(
        node: Node,
        contact: Fingerprint,
        events: EventStream,
        state: SafetyState,
    ) -> Self {
        Self { node, contact, events, state }
    }

    /// Where the comparison stands, as far as this object has heard.
    pub fn state(&self) -> &SafetyState {
        &self.state
    }

    /// The six digits to read out, for example `481 907`, as soon as they are known.
    ///
    /// # Errors
    /// [`SafetyError::Mismatch`], [`SafetyError::Cancelled`] when it ended before.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn code(&mut self) -> Result<String, SafetyError> {
        loop {
            match &self.state {
                SafetyState::CodeReady { code } => return Ok(code.clone()),
                SafetyState::Started { .. } => self.hear().await?,
                // The code was typed here before: it is not shown again.
                SafetyState::WaitingForThem | SafetyState::Verified => {
                    return Err(SafetyError::NoCodeYet);
                }
                SafetyState::Mismatch => return Err(SafetyError::Mismatch),
                SafetyState::Cancelled => return Err(SafetyError::Cancelled),
            }
        }
    }

    /// Takes the digits that our person typed, as the other person read them out.
    ///
    /// # Errors
    /// [`SafetyError::WrongCode`] when they differ: the run has failed and the other side is told.
    /// [`SafetyError::Locked`] when it was the third. [`SafetyError::NoCodeYet`] too early.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn confirm(&self, typed: &TypedCode) -> Result<(), SafetyError> {
        self.node.confirm_safety(&self.contact, typed).await
    }

    /// Waits until both people have typed the right digits.
    ///
    /// # Errors
    /// [`SafetyError::Mismatch`], [`SafetyError::Cancelled`] when either side ended it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn done(&mut self) -> Result<Verification, SafetyError> {
        loop {
            match &self.state {
                SafetyState::Verified => {
                    let contact = self.node.contact_by_fingerprint(&self.contact).await?;
                    return Ok(contact.ok_or(SafetyError::UnknownContact)?.verified);
                }
                SafetyState::Mismatch => return Err(SafetyError::Mismatch),
                SafetyState::Cancelled => return Err(SafetyError::Cancelled),
                _ => self.hear().await?,
            }
        }
    }

    /// Our person says that the digits differ: the run has failed and the other side is told.
    ///
    /// # Errors
    /// [`SafetyError::Store`] when the store failed.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn mismatch(&self) -> Result<(), SafetyError> {
        self.node.give_up_safety(&self.contact, true).await
    }

    /// Gives the comparison up without saying that anything is wrong.
    ///
    /// # Errors
    /// [`SafetyError::Store`] when the store failed.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may still take effect.
    pub async fn cancel(&self) -> Result<(), SafetyError> {
        self.node.give_up_safety(&self.contact, false).await
    }

    async fn hear(&mut self) -> Result<(), SafetyError> {
        loop {
            let event = self.events.next().await.map_err(|e| match e {
                EventError::Stopped => SafetyError::Store(StoreError::Stopped),
                EventError::Store(e) => SafetyError::Store(e),
            })?;
            if let EventKind::Safety { contact, state } = event.kind
                && contact == self.contact
            {
                self.state = state;
                return Ok(());
            }
        }
    }
}
