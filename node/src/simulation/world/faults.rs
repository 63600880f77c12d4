//! What goes wrong.

use super::*;

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Kill { node, operations } => match operations {
                0 => self.die(node),
                n => self.nodes[node].disk.trouble(|t| t.dies_in = Some(n)),
            },
            Fault::RestartPeer { peer } => self.restart_peer(peer),
            Fault::Connect { a, b } => self.connect(a, b),
            Fault::Disconnect { a, b } => {
                if let Some(link) = self.links.get_mut(&pair(a, b)).filter(|l| l.alive) {
                    link.alive = false;
                    let id = link.id;
                    self.notice(id, a, b);
                    self.notice(id, b, a);
                }
            }
            Fault::DiskFull { node, full } => {
                self.nodes[node].disk.trouble(|t| t.full = full);
                if !full {
                    self.say(node);
                }
            }
            Fault::NoSync { node } => {
                self.nodes[node].disk.trouble(|t| t.no_sync = true);
                // The store stops at the first failure; whoever watches the program restarts it.
                self.soon(1_000, 20_000, Happening::Fault(Fault::Replaced { node }));
            }
            Fault::Replaced { node } => {
                self.nodes[node].disk.trouble(|t| t.no_sync = false);
                self.die(node);
            }
            Fault::Clock { node, seconds } => self.nodes[node].clock = seconds,
            // Not while syncs fail: what was refused then may be in such a state, and be said again
            // under another name in the time that is forgotten.
            Fault::Remember { node } if self.nodes[node].disk.syncs_fail() => {}
            Fault::Remember { node } => {
                self.remembered = Some(self.nodes[node].disk.image());
                self.ledger.remembered(node);
            }
            Fault::SetBack { node } => {
                if let Some(image) = self.remembered.take() {
                    self.nodes[node].running = None;
                    self.end_links(node);
                    self.nodes[node].disk.begin(&image);
                    self.peers.iter_mut().for_each(|p| p.gone(node));
                    self.ledger.set_back(node);
                    self.soon(50, 20_000, Happening::Start { node });
                }
            }
            Fault::Calm => self.calm(),
        }
    }

    pub(super) fn restart_peer(&mut self, peer: usize) {
        self.peers[peer].restart(&mut self.rng);
        for node in 0..self.nodes.len() {
            let life = self.nodes[node].life;
            if self.home(node) == peer
                && let Some(running) = &mut self.nodes[node].running
            {
                running.registered = None;
            }
            self.soon(1, 3_000, Happening::PeerLost { node, life, peer });
        }
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        if a == b || self.nodes[a].running.is_none() || self.nodes[b].running.is_none() {
            return;
        }
        self.count += 1;
        let link = Link { id: self.count, alive: true, last: [self.now; 2] };
        for (node, contact) in [(a, b), (b, a)] {
            self.believed.insert((node, contact), link.id);
            let now = self.instant();
            self.courier(node, contact, |c| c.schedule.path_changed(now));
        }
        self.links.insert(pair(a, b), link);
        self.wake(a, b);
        self.wake(b, a);
    }

    /// The faults stop. Peers that have lied are replaced by honest ones.
    pub(super) fn calm(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].clock = 0;
            self.nodes[node].disk.trouble(|t| {
                (t.full, t.no_sync) = (false, false);
                t.dies_in = t.dies_in.filter(|n| *n == 0);
            });
        }
        // Who was set back may have read, and forgotten, what its senders believe to wait at its peer.
        // It shows with the next word.
        if self.ledger.somebody_is_old() {
            for from in 0..self.nodes.len() {
                for to in (0..self.nodes.len()).filter(|to| *to != from) {
                    self.soon(1_000, 60_000, Happening::Say(Say { from, to, within: None }));
                }
            }
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].is_malicious() {
                self.peers[peer].reform();
                self.restart_peer(peer);
            }
        }
        for node in 0..self.nodes.len() {
            // A store that has failed serves no more.
            if self.nodes[node].running.is_some() && self.rng.chance(500) {
                self.die(node);
            } else {
                self.say(node);
            }
        }
    }
}
