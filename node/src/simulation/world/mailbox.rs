//! The own mailbox: registering, reading what is pushed, asking again.

use super::*;

impl World {
    pub(super) fn register(&mut self, node: usize) {
        let (home, life) = (self.home(node), self.nodes[node].life);
        let Some(run) = self.peers[home].run() else {
            return self.soon(500, 30_000, Happening::Register { node, life });
        };
        let name = PeerHost::new("peer.example", 443).expect("it is a name");
        if self.on(node, move |m, cx| m.mailbox_kept_by(cx, &name, run)).is_err() {
            return self.soon(500, 30_000, Happening::Register { node, life });
        }
        if let Some(running) = &mut self.nodes[node].running {
            running.registered = Some(run);
        }
        self.peers[home].came(node);
        self.fetch(node);
    }

    pub(super) fn fetch(&mut self, node: usize) {
        let home = self.home(node);
        for id in self.peers[home].waiting(node, self.now) {
            // What is on its way is not asked for once more.
            if !self.on_the_way.contains(&(node, id)) {
                self.push(home, node, id);
            }
        }
    }

    /// A connected recipient is given what waits, in any order.
    pub(super) fn push(&mut self, peer: usize, to: usize, id: EnvelopeId) {
        let life = self.nodes[to].life;
        for (id, bytes) in self.peers[peer].give(to, id, &mut self.rng) {
            let Some(run) = self.peers[peer].run() else { return };
            self.on_the_way.insert((to, id));
            self.soon(5, 120, Happening::Mail { node: to, life, run, id, bytes });
        }
    }

    pub(super) fn mail(&mut self, node: usize, run: InstanceId, id: EnvelopeId, bytes: &[u8]) {
        let home = self.home(node);
        let registered = self.nodes[node].running.as_ref().and_then(|r| r.registered);
        if registered != Some(run) || self.peers[home].run() != Some(run) {
            return;
        }
        let from = Inner::decode(bytes).ok().and_then(|inner| self.index(&inner.route.from));
        if let Some(from) = from {
            self.receipt_too_early(node, from, bytes);
        }
        let arrivals: Vec<_> = Messenger::open_bare(id, bytes).into_iter().collect();
        let dead = arrivals.is_empty();
        let Ok(mut ingested) = self.on(node, move |m, cx| m.ingest(cx, arrivals)) else {
            // As after any trouble with the store: the registration is given up and begun again.
            let life = self.nodes[node].life;
            self.peers[home].gone(node);
            return self.soon(500, 10_000, Happening::Register { node, life });
        };
        if dead {
            ingested.done.push(id);
        }
        self.asked_for(node, &ingested.unreadable);
        let again = ingested.fetch_again;
        if again || !ingested.done.is_empty() {
            let ids = ingested.done;
            self.soon(5, 80, Happening::Forget { peer: home, node, run, ids, again });
        }
    }

    pub(super) fn ask_again(&mut self, node: usize, contact: usize) {
        let (fp, found) = (self.fp(contact), self.nodes[contact].look_up());
        let made = self
            .on(node, move |m, cx| m.make_resend(cx, &fp, &found).map_err(|_| StoreError::Stopped));
        if let Ok(Some(inner)) = made {
            self.courier(node, contact, |c| c.controls.push(inner));
            self.wake(node, contact);
        }
    }

    pub(super) fn peer_lost(&mut self, node: usize, peer: usize) {
        if let Some(running) = &mut self.nodes[node].running {
            running.offices.remove(&peer);
        }
        let waiting = self.on(node, |_, cx| cx.db.contacts_with_unacked()).unwrap_or_default();
        for fp in waiting {
            if let Some(contact) = self.index(&fp) {
                self.wake(node, contact);
            }
        }
        if self.home(node) == peer {
            let life = self.nodes[node].life;
            self.soon(200, 5_000, Happening::Register { node, life });
        }
    }
}
