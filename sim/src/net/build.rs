//! Putting a network together, and changing it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{BoxId, BoxSite, Device, Face, Host, HostId, Net, Realm, RealmId};
use crate::link::Link;
use crate::nat_box::{BoxConfig, NatBox, is_public};

impl Net {
    /// A box whose external address is in `outer`, with a network of its own behind it.
    pub fn add_box(
        &mut self,
        outer: RealmId,
        external: Ipv4Addr,
        config: BoxConfig,
        link: Link,
    ) -> (BoxId, RealmId) {
        let id = BoxId(self.boxes.len());
        let inner = RealmId(self.realms.len());
        self.realms.push(Realm { attached: BTreeMap::new(), gateway: Some(id), hops: 0 });
        let nat = NatBox::new(config, external, self.rng.fork());
        self.boxes.push(BoxSite { nat, inner, outer, link });
        self.attach(outer, external.into(), Device::Box(id));
        (id, inner)
    }

    /// A host without an interface.
    pub fn add_host(&mut self, name: &'static str, link: Link) -> HostId {
        let id = HostId(self.hosts.len());
        self.hosts.push(Host { name, faces: Vec::new(), link, wake: None, received: 0 });
        id
    }

    /// Gives a host an interface. A public address behind boxes is routed through them, without
    /// translation.
    pub fn plug(&mut self, host: HostId, realm: RealmId, ip: IpAddr) {
        self.hosts[host.0].faces.push(Face { ip, realm });
        self.attach(realm, ip, Device::Host(host));
        if is_public(ip) {
            let mut inner = realm;
            while let Some(gateway) = self.realms[inner.0].gateway {
                let outer = self.boxes[gateway.0].outer;
                self.attach(outer, ip, Device::Box(gateway));
                inner = outer;
            }
        }
    }

    /// Takes all interfaces from a host.
    pub fn unplug(&mut self, host: HostId) {
        for face in std::mem::take(&mut self.hosts[host.0].faces) {
            let mut realm = face.realm;
            self.realms[realm.0].attached.remove(&face.ip);
            while let Some(gateway) = self.realms[realm.0].gateway.filter(|_| is_public(face.ip)) {
                realm = self.boxes[gateway.0].outer;
                self.realms[realm.0].attached.remove(&face.ip);
            }
        }
    }

    /// Gives a box another external address; what it had mapped is gone.
    pub fn renumber(&mut self, id: BoxId, external: Ipv4Addr) {
        let site = &mut self.boxes[id.0];
        let (outer, old) = (site.outer, site.nat.external());
        site.nat.set_external(external);
        self.realms[outer.0].attached.remove(&old.into());
        self.attach(outer, external.into(), Device::Box(id));
    }

    fn attach(&mut self, realm: RealmId, ip: IpAddr, device: Device) {
        let earlier = self.realms[realm.0].attached.insert(ip, device);
        assert!(earlier.is_none(), "{ip} is given twice");
    }
}
