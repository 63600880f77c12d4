//! Safety codes: driving the identity crate's exchange through messages that survive restarts.
//!
//! An attacker in the middle could learn both codes before the people do, and give the exchange up
//! whenever they differ until they happen to agree. So a run that ends in any other way than two
//! confirmations counts as failed once our key is revealed, whoever ended it; only our own person
//! may cancel without it being counted.

use halloo_identity::Fingerprint;
use halloo_identity::safety::{
    self, Attempts, Initiator, Locked, Responder, SafetyState as Exchange, TypedCode, Verified,
};
use halloo_wire::content::{Content, Safety, SafetyStep};
use halloo_wire::inner::Kind;

use super::{Context, Messenger};
use crate::contact::{CheckedHow, ContactState};
use crate::error::SafetyError;
use crate::event::{EventKind, SafetyState};
use crate::store::{SafetyRow, StoreError};

impl Messenger {
    /// Begins an exchange, or joins the one that runs. Returns where it stands.
    pub(crate) fn check_safety(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
    ) -> Result<([u8; 16], SafetyState), SafetyError> {
        let row = cx.db.contact(fp)?.ok_or(SafetyError::UnknownContact)?;
        if row.state != ContactState::Accepted {
            return Err(SafetyError::NotAccepted);
        }
        self.check_lock(cx, fp)?;
        if let Some((row, exchange)) = self.exchange(cx, fp)? {
            return Ok((row.exchange, standing(&exchange)));
        }
        let (state, message) = Initiator::start(crate::random::bytes(), self.fingerprint(), *fp);
        let id = message.exchange;
        self.keep(cx, fp, id, &Exchange::AwaitCommit(state))?;
        self.say(cx, fp, &message)?;
        let standing = SafetyState::Started { by_us: true };
        self.tell(cx, fp, standing.clone())?;
        Ok((id, standing))
    }

    /// Our person typed what the other one read out.
    pub(crate) fn confirm_safety(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        typed: &TypedCode,
    ) -> Result<Result<(), SafetyError>, StoreError> {
        let Some((row, exchange)) = self.exchange(cx, fp)? else {
            return Ok(Err(SafetyError::NoExchange));
        };
        let Exchange::Compare(compare) = exchange else {
            return Ok(Err(SafetyError::NoCodeYet));
        };
        match compare.confirm(typed) {
            Ok((confirmed, message)) => {
                self.say(cx, fp, &message)?;
                match confirmed.finish() {
                    Ok(verified) => self.verified(cx, fp, &verified)?,
                    Err(confirmed) => {
                        self.keep(cx, fp, row.exchange, &Exchange::Confirmed(confirmed))?;
                        self.tell(cx, fp, SafetyState::WaitingForThem)?;
                    }
                }
                Ok(Ok(()))
            }
            // The failed run is written, so this is a success of the transaction.
            Err(_) => {
                self.say(cx, fp, &safety::mismatch(row.exchange))?;
                let locked = self.failed(cx, fp, SafetyState::Mismatch)?;
                Ok(Err(match locked {
                    Some(locked) => SafetyError::Locked { until_unix_s: locked.until },
                    None => SafetyError::WrongCode,
                }))
            }
        }
    }

    /// Our person says that the digits differ, or gives up.
    pub(crate) fn give_up_safety(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        differ: bool,
    ) -> Result<(), StoreError> {
        let Some((row, _)) = self.exchange(cx, fp)? else { return Ok(()) };
        if differ {
            self.say(cx, fp, &safety::mismatch(row.exchange))?;
            self.failed(cx, fp, SafetyState::Mismatch)?;
        } else {
            self.say(cx, fp, &safety::cancel(row.exchange))?;
            self.end_safety(cx, fp)?;
            self.tell(cx, fp, SafetyState::Cancelled)?;
        }
        Ok(())
    }

    /// Takes the other side's step. What does not fit is ignored: it may be late.
    pub(super) fn take_safety(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        message: &Safety,
    ) -> Result<(), StoreError> {
        let Some(contact) = cx.db.contact(fp)? else { return Ok(()) };
        if contact.state != ContactState::Accepted {
            return Ok(());
        }
        let running = self.exchange(cx, fp)?;
        if message.step == SafetyStep::Start {
            return self.take_start(cx, fp, message, running.map(|(_, e)| e));
        }
        let Some((row, exchange)) = running.filter(|(row, _)| row.exchange == message.exchange)
        else {
            return Ok(());
        };
        let id = row.exchange;
        match (exchange, &message.step) {
            (Exchange::AwaitCommit(state), SafetyStep::Commit(commitment)) => {
                let (state, message) = state.on_commit(*commitment);
                self.keep(cx, fp, id, &Exchange::AwaitReveal(state))?;
                self.say(cx, fp, &message)
            }
            (Exchange::AwaitInitiatorKey(state), SafetyStep::RevealInitiator(key)) => {
                match state.on_reveal(*key) {
                    Ok((compare, message)) => {
                        let code = compare.code().to_string();
                        self.keep(cx, fp, id, &Exchange::Compare(compare))?;
                        self.say(cx, fp, &message)?;
                        self.tell(cx, fp, SafetyState::CodeReady { code })
                    }
                    Err(_) => self.broken(cx, fp, id),
                }
            }
            (Exchange::AwaitReveal(state), SafetyStep::RevealResponder(key)) => {
                match state.on_reveal(*key) {
                    Ok(compare) => {
                        let code = compare.code().to_string();
                        self.keep(cx, fp, id, &Exchange::Compare(compare))?;
                        self.tell(cx, fp, SafetyState::CodeReady { code })
                    }
                    Err(_) => self.broken(cx, fp, id),
                }
            }
            (Exchange::Compare(state), SafetyStep::Confirm(mac)) => match state.on_confirm(*mac) {
                Ok(compare) => self.keep(cx, fp, id, &Exchange::Compare(compare)),
                Err(_) => self.broken(cx, fp, id),
            },
            (Exchange::Confirmed(state), SafetyStep::Confirm(mac)) => {
                match state.on_confirm(*mac) {
                    Ok(verified) => self.verified(cx, fp, &verified),
                    Err(_) => self.broken(cx, fp, id),
                }
            }
            (_, SafetyStep::Mismatch) => {
                self.failed(cx, fp, SafetyState::Mismatch)?;
                Ok(())
            }
            (exchange, SafetyStep::Cancel) => {
                self.abandon(cx, fp, &exchange)?;
                self.tell(cx, fp, SafetyState::Cancelled)
            }
            _ => Ok(()),
        }
    }

    /// Ends the exchange that runs with a contact, if any.
    pub(super) fn end_safety(
        &mut self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<(), StoreError> {
        cx.db.remove_safety(fp)
    }

    fn take_start(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        message: &Safety,
        running: Option<Exchange>,
    ) -> Result<(), StoreError> {
        if self.check_lock(cx, fp).is_err() {
            return self.say(cx, fp, &safety::cancel(message.exchange));
        }
        if let Some(exchange) = running {
            // Both began at once: the smaller fingerprint's exchange goes on.
            if matches!(exchange, Exchange::AwaitCommit(_)) && self.fingerprint() < *fp {
                return Ok(());
            }
            self.abandon(cx, fp, &exchange)?;
            if self.check_lock(cx, fp).is_err() {
                return self.say(cx, fp, &safety::cancel(message.exchange));
            }
        }
        let (state, answer) = Responder::on_start(message.exchange, self.fingerprint(), *fp);
        self.keep(cx, fp, message.exchange, &Exchange::AwaitInitiatorKey(state))?;
        self.say(cx, fp, &answer)?;
        self.tell(cx, fp, SafetyState::Started { by_us: false })
    }

    /// The other side left an exchange: it counts when our key was revealed.
    fn abandon(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        exchange: &Exchange,
    ) -> Result<(), StoreError> {
        if exchange.has_revealed() {
            self.count_failure(cx, fp)?;
        }
        self.end_safety(cx, fp)
    }

    fn broken(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        id: [u8; 16],
    ) -> Result<(), StoreError> {
        self.say(cx, fp, &safety::mismatch(id))?;
        self.failed(cx, fp, SafetyState::Mismatch)?;
        Ok(())
    }

    fn failed(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        state: SafetyState,
    ) -> Result<Option<Locked>, StoreError> {
        let locked = self.count_failure(cx, fp)?;
        self.end_safety(cx, fp)?;
        self.tell(cx, fp, state)?;
        Ok(locked)
    }

    fn verified(
        &mut self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        proof: &Verified,
    ) -> Result<(), StoreError> {
        debug_assert_eq!(proof.them(), *fp);
        self.end_safety(cx, fp)?;
        if let Some(mut row) = cx.db.contact(fp)? {
            row.attempts = Attempts::default().to_bytes();
            cx.db.put_contact(&row)?;
        }
        self.set_checked(cx, fp, CheckedHow::Code)?;
        self.tell(cx, fp, SafetyState::Verified)
    }

    fn exchange(
        &self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<Option<(SafetyRow, Exchange)>, StoreError> {
        let Some(row) = cx.db.safety(fp)? else { return Ok(None) };
        let exchange = Exchange::from_bytes(&row.state)
            .map_err(|_| StoreError::Unreadable("safety exchange"))?;
        Ok(Some((row, exchange)))
    }

    fn keep(
        &self,
        cx: &Context<'_>,
        fp: &Fingerprint,
        id: [u8; 16],
        exchange: &Exchange,
    ) -> Result<(), StoreError> {
        cx.db.put_safety(fp, &SafetyRow { exchange: id, state: exchange.to_bytes() })
    }

    fn say(
        &self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        message: &Safety,
    ) -> Result<(), StoreError> {
        let seq = cx.db.take_seq(fp)?;
        cx.db.enqueue(fp, seq, Kind::Safety, &message.encode(), None)?;
        cx.wake(*fp);
        Ok(())
    }

    fn tell(
        &self,
        cx: &mut Context<'_>,
        fp: &Fingerprint,
        state: SafetyState,
    ) -> Result<(), StoreError> {
        cx.emit(EventKind::Safety { contact: *fp, state })
    }

    fn attempts(&self, cx: &Context<'_>, fp: &Fingerprint) -> Result<Attempts, StoreError> {
        match cx.db.contact(fp)? {
            Some(row) if !row.attempts.is_empty() => Attempts::from_bytes(&row.attempts)
                .map_err(|_| StoreError::Unreadable("safety attempts")),
            _ => Ok(Attempts::default()),
        }
    }

    fn check_lock(&self, cx: &Context<'_>, fp: &Fingerprint) -> Result<(), SafetyError> {
        self.attempts(cx, fp)?
            .check(cx.now.0)
            .map_err(|locked| SafetyError::Locked { until_unix_s: locked.until })
    }

    fn count_failure(
        &self,
        cx: &Context<'_>,
        fp: &Fingerprint,
    ) -> Result<Option<Locked>, StoreError> {
        let mut attempts = self.attempts(cx, fp)?;
        let locked = attempts.failed(cx.now.0).err();
        if let Some(mut row) = cx.db.contact(fp)? {
            row.attempts = attempts.to_bytes();
            cx.db.put_contact(&row)?;
        }
        Ok(locked)
    }
}

fn standing(exchange: &Exchange) -> SafetyState {
    match exchange {
        Exchange::AwaitCommit(_) | Exchange::AwaitReveal(_) => SafetyState::Started { by_us: true },
        Exchange::AwaitInitiatorKey(_) => SafetyState::Started { by_us: false },
        Exchange::Compare(compare) => SafetyState::CodeReady { code: compare.code().to_string() },
        Exchange::Confirmed(_) => SafetyState::WaitingForThem,
    }
}
