//! The couriers' shell, as `net::courier` has it: on a connection, or by the contact's peer.

use super::*;

impl World {
    pub(super) fn round(&mut self, node: usize, contact: usize) {
        let now = self.instant();
        let carrying = self.courier(node, contact, |c| {
            c.wake_at = None;
            if c.carrying.is_some() {
                c.again = true;
                return true;
            }
            if std::mem::take(&mut c.heard_by_mailbox) {
                c.schedule.heard_by_mailbox(now);
            }
            false
        });
        if carrying != Some(false) {
            return;
        }
        let trust = match self.believed.get(&(node, contact)).copied() {
            Some(link) => match self.by_link(node, contact, link) {
                Ok(first) => self
                    .courier(node, contact, |c| c.schedule.written(now, first))
                    .unwrap_or(Trust::None),
                Err(_) => return self.failed(node, contact),
            },
            None => Trust::None,
        };
        let suffices = self.courier(node, contact, |c| c.schedule.link_suffices(trust)).flatten();
        if let Some(Next::Wait(again)) = suffices {
            return self.rest(node, contact, again);
        }
        let fp = self.fp(contact);
        let controls = self.courier(node, contact, |c| !c.controls.is_empty()).unwrap_or_default();
        let work = self.on(node, move |m, cx| {
            let first = cx.db.first_unacked(&fp)?;
            Ok::<_, StoreError>(Work { first, ack: m.due_ack(cx, &fp)?.is_some(), controls })
        });
        let Ok(mut work) = work else { return self.failed(node, contact) };
        let next = self.courier(node, contact, |c| c.schedule.next(now, trust, &mut work));
        match next {
            Some(Next::Wait(again)) => self.rest(node, contact, again),
            Some(Next::ByPeer) => {
                self.courier(node, contact, |c| c.carrying = Some((trust, work)));
                self.carry(node, contact);
            }
            None => {}
        }
    }

    pub(super) fn rest(&mut self, node: usize, contact: usize, again: Option<Instant>) {
        if let Some(again) = again {
            let when = again.saturating_duration_since(self.origin);
            self.wake_at(node, contact, when.max(self.now + Duration::from_millis(1)));
        }
    }

    pub(super) fn failed(&mut self, node: usize, contact: usize) {
        let (now, jitter) = (self.instant(), 0.5 + self.rng.part());
        let again = self.courier(node, contact, |c| {
            c.carrying = None;
            c.ack = None;
            c.schedule.failed(now, None, jitter)
        });
        self.rest(node, contact, again);
    }

    /// Writes everything on a link. Returns the first place that is not acknowledged.
    pub(super) fn by_link(
        &mut self,
        node: usize,
        contact: usize,
        link: u64,
    ) -> Result<Option<Seq>, StoreError> {
        let fp = self.fp(contact);
        self.courier(node, contact, |c| {
            if c.writing.is_none_or(|(id, _)| id != link) {
                c.writing = Some((link, None));
                c.schedule.link_began();
            }
        });
        loop {
            let written = self.courier(node, contact, |c| c.writing).flatten().and_then(|w| w.1);
            let by_link =
                self.on(node, move |m, cx| m.depart_by_link(cx, &fp, written, PORTION))?;
            if let Some(due) = by_link.ack {
                let now = self.instant();
                let suffices = self.courier(node, contact, |c| {
                    if std::mem::take(&mut c.heard_by_mailbox) {
                        c.schedule.heard_by_mailbox(now);
                    }
                    c.schedule.receipt_by_link_suffices()
                });
                self.write(node, contact, link, Frame::Ack(due.ack));
                if suffices == Some(true) {
                    self.on(node, move |m, cx| m.ack_sent(cx, &fp, due))?;
                    self.courier(node, contact, |c| c.schedule.receipt_given(false));
                }
            }
            match by_link.departure {
                Departure::NeedBundle => self.begin_session(node, contact)?,
                Departure::Ready(ready) => {
                    let all = ready.len() < PORTION;
                    for one in ready {
                        self.ledger.left(node, contact, &one.inner);
                        self.courier(node, contact, |c| {
                            c.writing = Some((link, Some((by_link.stream, one.seq))));
                        });
                        self.write(node, contact, link, Frame::Inner(one.inner));
                    }
                    if all {
                        let controls =
                            self.courier(node, contact, |c| std::mem::take(&mut c.controls));
                        for inner in controls.into_iter().flatten() {
                            self.write(node, contact, link, Frame::Inner(inner));
                        }
                        return Ok(by_link.first);
                    }
                }
            }
        }
    }

    pub(super) fn begin_session(&mut self, node: usize, contact: usize) -> Result<(), StoreError> {
        let (fp, found) = (self.fp(contact), self.nodes[contact].look_up());
        self.on(node, move |m, cx| m.take_bundle(cx, &fp, &found).map_err(|_| StoreError::Stopped))
    }

    pub(super) fn write(&mut self, from: usize, to: usize, id: u64, frame: Frame) {
        let wait = Duration::from_millis(self.rng.within(5, 60));
        let Some(link) = self.links.get_mut(&pair(from, to)) else { return };
        if link.id != id || !link.alive {
            return;
        }
        let last = &mut link.last[usize::from(from < to)];
        *last = (self.now + wait).max(*last);
        let when = *last;
        self.at(when, Happening::Frame { link: id, from, to, frame });
    }

    pub(super) fn frame(&mut self, id: u64, from: usize, to: usize, frame: Frame) {
        let alive = self.links.get(&pair(from, to)).is_some_and(|l| l.id == id && l.alive);
        if !alive || self.nodes[to].running.is_none() {
            return;
        }
        let fp = self.fp(from);
        // What could not be stored is not acknowledged.
        match frame {
            Frame::Ack(ack) => {
                let _ = self.on(to, move |m, cx| m.take_ack(cx, &fp, ack, Via::Direct));
            }
            Frame::Inner(bytes) => {
                self.receipt_too_early(to, from, &bytes);
                let ingested = self.on(to, move |m, cx| {
                    let arrivals = m.open_frame(&fp, Via::Direct, &bytes).into_iter().collect();
                    m.ingest(cx, arrivals)
                });
                let Ok(ingested) = ingested else { return };
                self.asked_for(to, &ingested.unreadable);
                if ingested.fetch_again || !ingested.done.is_empty() {
                    self.follow(to, Output::Forget(ingested.done));
                }
            }
        }
    }

    /// A planted fault: the receipt leaves first.
    pub(super) fn receipt_too_early(&mut self, node: usize, from: usize, bytes: &[u8]) {
        if !planted(Bug::ReceiptBeforeCommit) {
            return;
        }
        let Ok(inner) = Inner::decode(bytes) else { return };
        let (fp, route) = (self.fp(node), inner.route);
        let fs = self.fp(from);
        let incoming = self.on(node, move |_, cx| cx.db.incoming(&fs)).ok().flatten();
        let written = self.on(from, move |_, cx| cx.db.transcript(&fp, route.seq)).ok().flatten();
        let is_next = incoming.is_some_and(|i| (i.stream, i.next) == (route.stream, route.seq));
        if let Some(transcript) = written
            && inner.kind == Kind::Message
            && is_next
        {
            let ack = Ack { stream: route.stream, next: Seq(route.seq.0 + 1), transcript };
            let _ = self.on(from, move |m, cx| m.take_ack(cx, &fp, ack, Via::Direct));
        }
    }
    /// Sends the next envelopes to the contact's peer, or ends the carrying.
    pub(super) fn carry(&mut self, node: usize, contact: usize) {
        let Some((trust, work)) = self.courier(node, contact, |c| c.carrying).flatten() else {
            return;
        };
        // A connection is the better way.
        if trust == Trust::None
            && let Some(link) = self.believed.get(&(node, contact)).copied()
            && self.courier(node, contact, |c| c.writing.is_none_or(|w| w.0 != link)) == Some(true)
        {
            self.courier(node, contact, |c| c.carrying = None);
            return self.wake(node, contact);
        }
        let home = self.home(contact);
        let known = self.nodes[node].running.as_ref().and_then(|r| r.offices.get(&home).copied());
        let Some(run) = known.or_else(|| self.peers[home].run()) else {
            return self.failed(node, contact);
        };
        if let Some(running) = &mut self.nodes[node].running {
            running.offices.insert(home, run);
        }
        let fp = self.fp(contact);
        let ready = loop {
            if work.first.is_none() {
                break Vec::new();
            }
            match self.on(node, move |m, cx| m.depart_to_peer(cx, &fp, run, IN_FLIGHT)) {
                Ok(Departure::Ready(ready)) => break ready,
                Ok(Departure::NeedBundle) => {
                    if self.begin_session(node, contact).is_err() {
                        return self.failed(node, contact);
                    }
                }
                Err(_) => return self.failed(node, contact),
            }
        };
        let last = ready.is_empty();
        let mut envelopes = Vec::new();
        for one in ready {
            self.ledger.left(node, contact, &one.inner);
            envelopes.push((Some(one.clone()), one.inner));
        }
        let mut later = None;
        if last {
            let controls = self.courier(node, contact, |c| std::mem::take(&mut c.controls));
            envelopes.extend(controls.into_iter().flatten().map(|inner| (None, inner)));
        }
        match self.receipt_by_mail(node, contact) {
            Ok(Some(inner)) => envelopes.push((None, inner)),
            Ok(None) => later = self.courier(node, contact, |c| c.receipt_later).flatten(),
            Err(_) => return self.failed(node, contact),
        }
        if envelopes.is_empty() {
            let (now, jitter) = (self.instant(), 0.5 + self.rng.part());
            let again = self.courier(node, contact, |c| {
                c.carrying = None;
                c.schedule.left(now, trust, &work, later, jitter)
            });
            self.rest(node, contact, again.flatten());
            if self.courier(node, contact, |c| std::mem::take(&mut c.again)) == Some(true) {
                self.wake(node, contact);
            }
            return;
        }
        let life = self.nodes[node].life;
        self.soon(5, 80, Happening::Drop { from: node, life, to: contact, run, envelopes });
    }

    /// The receipt that is due, if its time has come.
    pub(super) fn receipt_by_mail(
        &mut self,
        node: usize,
        contact: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let (fp, now, part) = (self.fp(contact), self.instant(), self.rng.part());
        let due = self.on(node, move |m, cx| m.due_ack(cx, &fp))?;
        let Some(due) = due else {
            self.courier(node, contact, |c| {
                c.receipt_later = None;
                c.schedule.receipt_given(true);
            });
            return Ok(None);
        };
        let later = self.courier(node, contact, |c| {
            c.receipt_later = c.schedule.receipt_at(now, part);
            c.receipt_later
        });
        if later.flatten().is_some() {
            return Ok(None);
        }
        let inner =
            self.on(node, move |m, cx| m.make_control(cx, &fp, Kind::Ack, &due.ack.encode()))?;
        self.courier(node, contact, |c| c.ack = inner.is_some().then_some(due));
        Ok(inner)
    }

    pub(super) fn at_peer(
        &mut self,
        from: usize,
        life: u32,
        to: usize,
        run: InstanceId,
        mut envelopes: Vec<(Option<Outgoing>, Vec<u8>)>,
    ) {
        let home = self.home(to);
        let (mut left, mut refused) = (Vec::new(), false);
        self.rng.shuffle(&mut envelopes);
        for (message, bytes) in envelopes {
            match self.peers[home].take(to, run, bytes, self.now, &mut self.rng) {
                Given::Kept(receipt, id) => {
                    if let Some(id) = id {
                        self.push(home, to, id);
                    }
                    left.extend(message.map(|message| (message, receipt)));
                }
                Given::Refused => refused = true,
            }
        }
        // The answer may get lost with the connection; then the sender hears nothing good.
        if self.now < CALM && self.rng.chance(self.plan.loss) {
            left.clear();
            refused = true;
        }
        self.soon(5, 80, Happening::Answer { node: from, life, contact: to, left, refused });
    }

    pub(super) fn answered(
        &mut self,
        node: usize,
        contact: usize,
        left: Vec<(Outgoing, Receipt)>,
        refused: bool,
    ) {
        let fp = self.fp(contact);
        let noted = self.on(node, move |m, cx| m.parked(cx, &fp, &left));
        if noted.is_err() || refused {
            // The next attempt asks which run there is.
            let home = self.home(contact);
            if let Some(running) = &mut self.nodes[node].running {
                running.offices.remove(&home);
            }
            return self.failed(node, contact);
        }
        if let Some(ack) = self.courier(node, contact, |c| c.ack.take()).flatten() {
            self.courier(node, contact, |c| c.schedule.receipt_given(true));
            if self.on(node, move |m, cx| m.ack_sent(cx, &fp, ack)).is_err() {
                return self.failed(node, contact);
            }
        }
        self.carry(node, contact);
    }
}
