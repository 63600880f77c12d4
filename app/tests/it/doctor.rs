//! `doctor` says what works, what does not, and what to do.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use serde_json::Value;

use crate::harness::{Person, World};

fn named<'a>(lines: &'a [Value], check: &str) -> &'a Value {
    let found = lines.iter().find(|line| line["event"] == "check" && line["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {lines:#?}"))
}

#[test]
fn a_good_network_is_said_to_be_one() {
    let world = World::new();
    let (anna, _ben, _at_anna, _at_ben) = world.friends();
    let lines = anna.ok(&["doctor", "ben"]);
    let place = world.peer.place();
    for check in ["udp", "tcp"] {
        let answer = named(&lines, check);
        assert_eq!((&answer["ok"], &answer["about"]), (&true.into(), &place.as_str().into()));
        assert!(answer["figures"]["rtt_ms"].as_f64().unwrap() > 0.0, "{answer}");
        assert_eq!(answer["figures"]["own"], true);
    }
    let registered = named(&lines, "registered");
    assert_eq!((&registered["ok"], &registered["figures"]["over"]), (&true.into(), &"udp".into()));
    let nat = named(&lines, "nat");
    assert_eq!((&nat["ok"], &nat["figures"]["outlook"]), (&true.into(), &"open".into()), "{nat}");
    let path = named(&lines, "path");
    assert_eq!((&path["ok"], &path["about"]), (&true.into(), &"ben".into()));
    assert_eq!(path["figures"]["via"], "direct", "loopback allows a direct path: {path}");
    assert!(path["figures"]["technique"].is_string(), "{path}");
    assert!(lines.iter().all(|line| line["schema"] == 1 && line["ok"] != false), "{lines:#?}");
    let summary = lines.last().unwrap();
    assert_eq!((&summary["event"], &summary["online"]), (&"summary".into(), &true.into()));
    assert_eq!((&summary["checks"], &summary["failed"]), (&(lines.len() - 1).into(), &0.into()));
}

#[test]
fn it_works_without_a_running_node_and_in_words() {
    let world = World::new();
    let anna = world.person("anna");
    let ended = anna.run(&["doctor"]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    let said = ended.stdout();
    let place = world.peer.place();
    assert!(said.contains(&format!("✓ {place} answers over UDP, round trip")), "{said}");
    assert!(said.contains(&format!("✓ registered at {place} over UDP")), "{said}");
    assert!(said.contains("✓ nothing translates your address"), "{said}");
    assert!(said.ends_with("online, and nothing to mend\n"), "{said}");
    assert!(!said.contains('✗'), "{said}");
}

#[test]
fn a_peer_that_is_down_is_found_with_what_to_do() {
    let world = World::new();
    let anna = world.person("anna");
    world.peer.kill();
    let ended = anna.run(&["doctor", "--json"]);
    assert_eq!(ended.code(), 4, "{}", ended.stderr());
    let lines = ended.lines();
    for check in ["udp", "tcp", "registered"] {
        assert_eq!(named(&lines, check)["ok"], false, "{check}");
    }
    assert!(named(&lines, "udp")["try"].is_string());
    assert!(named(&lines, "nat")["ok"].is_null(), "nothing is known of the network");
    assert_eq!(lines.last().unwrap()["online"], false);
    assert!(ended.stderr().contains("not-online"), "{}", ended.stderr());
}

#[test]
fn blocked_udp_is_recognised_and_gone_around() {
    let world = World::new();
    // Only TCP leads to the peer from here.
    let way = forward_tcp(world.peer.place().parse().unwrap());
    let anna = Person { home: world.path("anna") };
    anna.ok(&["init", "--peer", &way.to_string()]);
    let lines = anna.ok(&["doctor"]);
    assert_eq!(named(&lines, "udp")["ok"], false);
    assert_eq!(named(&lines, "tcp")["ok"], true);
    assert_eq!(named(&lines, "registered")["figures"]["over"], "tcp");
    let nat = named(&lines, "nat");
    assert_eq!((&nat["ok"], &nat["figures"]["outlook"]), (&false.into(), &"udp-blocked".into()));
    assert!(nat["try"].as_str().unwrap().contains("let UDP out"), "{nat}");
}

#[test]
fn another_key_ends_with_its_own_code() {
    let mut world = World::new();
    let anna = world.person("anna");
    anna.ok(&["doctor"]);
    world.peer.kill();
    world.peer.restart_as_another();
    let ended = anna.run(&["doctor", "--json"]);
    assert_eq!(ended.code(), 6, "{}", ended.stderr());
    let key = named(&ended.lines(), "key").clone();
    assert_eq!((&key["ok"], &key["figures"]["own"]), (&false.into(), &true.into()));
    let found = key["figures"]["found"].as_str().unwrap();
    assert!(world.peer.address.ends_with(found), "{key}");
}

#[test]
fn an_absent_contact_is_reached_by_mailbox() {
    let world = World::new();
    let (anna, _ben, _at_anna, at_ben) = world.friends();
    at_ben.kill();
    // The peer notices that he is gone when his connection has been silent; until then a call
    // rings in vain.
    let lines = anna.ok(&["doctor", "ben"]);
    let path = named(&lines, "path");
    assert_ne!(path["figures"]["via"], "direct", "{path}");
    assert_eq!(path["ok"], false);
    let nobody = anna.run(&["doctor", "carl", "--json"]);
    assert_eq!(nobody.code(), 3, "{}", nobody.stderr());
}

/// A way to `to` for TCP alone.
fn forward_tcp(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else { continue };
            for (mut from, mut to) in
                [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    here
}
