//! Processes: starting, dying, and what their programs want to say.

use super::*;
use crate::core::schedule::{DEADLINE_LOOK, look_at_deadline};
use crate::error::CancelError;

impl World {
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].running.is_some() {
            return;
        }
        if let Err(e) = self.nodes[node].start() {
            if self.nodes[node].disk.is_dead() {
                return self.die(node);
            }
            // The disk may be full or not answer: somebody tries again.
            if matches!(e, StoreError::Corrupt | StoreError::NotOurs | StoreError::Unreadable(_)) {
                self.ledger.breach(Breach::Damaged { node, why: e.to_string() });
            }
            self.soon(5_000, 10_000, Happening::Start { node });
            return;
        }
        let life = self.nodes[node].life;
        self.soon(10, 300, Happening::Register { node, life });
        self.soon(30_000, 90_000, Happening::Missing { node, life });
        let waiting = self.on(node, |_, cx| cx.db.contacts_with_unacked()).unwrap_or_default();
        for fp in waiting {
            if let Some(contact) = self.index(&fp) {
                self.wake(node, contact);
            }
        }
        self.expire_at(node, self.now);
        self.say(node);
    }

    /// A node will look whether a deadline has passed.
    pub(super) fn expire_at(&mut self, node: usize, when: Duration) {
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.expire_at.is_none_or(|at| when < at) {
            running.expire_at = Some(when);
            let life = self.nodes[node].life;
            self.at(when, Happening::Expire { node, life });
        }
    }

    pub(super) fn expire(&mut self, node: usize) {
        match &mut self.nodes[node].running {
            Some(running) if running.expire_at == Some(self.now) => running.expire_at = None,
            _ => return,
        }
        let looked = self.on(node, |m, cx| Ok::<_, StoreError>((cx.now.0, m.expire(cx)?)));
        let wait = match looked {
            Ok((now, next)) => next.map(|at| look_at_deadline(now, at)),
            Err(_) => Some(DEADLINE_LOOK),
        };
        if let Some(wait) = wait {
            self.expire_at(node, self.now + wait);
        }
    }

    /// A program takes back one of the last things that it has said.
    pub(super) fn cancel(&mut self, node: usize) {
        let to = self.rng.below(self.nodes.len());
        let back = self.rng.below(12);
        let Some(id) = self.ledger.said_lately(node, to, back) else { return };
        let took = self.on(node, move |m, cx| m.cancel(cx, &id));
        self.ledger.cancelled(
            node,
            to,
            &id,
            match took {
                Ok(()) => Some(true),
                Err(CancelError::TooLate) => Some(false),
                // It may have taken effect.
                Err(_) => None,
            },
        );
    }

    /// The process is gone, and perhaps the machine's power.
    pub(super) fn die(&mut self, node: usize) {
        if self.nodes[node].running.take().is_some() {
            let power_lost = self.rng.chance(500);
            self.end_links(node);
            self.nodes[node].disk.restart(power_lost.then_some(&mut self.rng));
        } else {
            self.nodes[node].disk.restart(Some(&mut self.rng));
        }
        self.peers.iter_mut().for_each(|p| p.gone(node));
        self.soon(50, 20_000, Happening::Start { node });
    }

    pub(super) fn end_links(&mut self, node: usize) {
        for contact in 0..self.nodes.len() {
            if let Some(link) = self.links.get_mut(&pair(node, contact)).filter(|l| l.alive) {
                link.alive = false;
                let id = link.id;
                self.notice(id, contact, node);
            }
            self.believed.remove(&(node, contact));
        }
    }

    /// One side will notice that a link has ended; it may take a while.
    pub(super) fn notice(&mut self, link: u64, node: usize, contact: usize) {
        let life = self.nodes[node].life;
        self.soon(5, 60_000, Happening::LinkLost { link, node, life, contact });
    }

    pub(super) fn stop_believing(&mut self, link: u64, node: usize, contact: usize) {
        if self.believed.get(&(node, contact)) == Some(&link) {
            self.believed.remove(&(node, contact));
            let now = self.instant();
            self.courier(node, contact, |c| c.schedule.path_changed(now));
            self.wake(node, contact);
        }
    }

    /// What the programs want to say goes to `send`, under one name until that says Ok.
    pub(super) fn say(&mut self, node: usize) {
        for to in 0..self.nodes.len() {
            while let Some((text, within)) =
                self.unsaid.get(&(node, to)).and_then(|t| t.first()).cloned()
            {
                let (fp, body) = (self.fp(to), text.clone());
                let hurry = within.map(Duration::from_secs);
                let sent =
                    self.on(node, move |m, cx| m.send(cx, &fp, &body, Some(&body), None, hurry));
                match sent {
                    Ok(id) => {
                        self.ledger.accepted(node, to, id, text, within.is_some());
                        if let Some(texts) = self.unsaid.get_mut(&(node, to)) {
                            texts.remove(0);
                        }
                    }
                    // A full or failing disk: the program hears it, and tries again later.
                    Err(_) => break,
                }
            }
        }
    }
}
