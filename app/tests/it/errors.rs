//! What goes wrong is said in the promised form, and ends with the promised code.

use serde_json::Value;

use crate::harness::{Ended, Person, World, finish, halloo};

fn error(ended: &Ended) -> Value {
    let line: Value = serde_json::from_str(ended.stderr().lines().last().unwrap()).unwrap();
    assert_eq!(line["schema"], 1);
    line["error"].clone()
}

#[test]
fn nonsense_on_the_command_line_ends_with_2() {
    for args in
        [&["fly"][..], &["ping"], &["ping", "x", "--interval", "soon"], &["init", "--peer", "a b"]]
    {
        let mut command = halloo();
        command.args(args);
        assert_eq!(finish(command).status.code(), Some(2), "{args:?}");
    }
    let mut command = halloo();
    let output = finish({
        command.args(["fly", "--json"]);
        command
    });
    let line: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(line["error"]["code"], "usage");
}

#[test]
fn a_home_without_identity_is_a_config_error_and_stays_empty() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = Person { home: dir.path().join("none") };
    for args in [&["id"][..], &["contacts"], &["listen"], &["send", "x", "y"]] {
        let ended = nobody.run(args);
        assert_eq!(ended.code(), 78, "{args:?}");
        assert!(ended.stderr().contains("error[no-identity]"), "{}", ended.stderr());
        assert!(ended.stderr().contains("  try: halloo init"), "{}", ended.stderr());
    }
    assert_eq!(nobody.run(&["init"]).code(), 78, "an address needs a peer");
    assert!(!nobody.home.exists(), "looking makes nothing");
}

#[test]
fn init_says_who_one_is_and_does_not_move() {
    let world = World::new();
    let anna = world.person("anna");
    let again = anna.run(&["init", "--peer", &world.peer.place()]);
    assert_eq!(again.code(), 0, "{}", again.stderr());
    assert_eq!(again.stdout().trim(), anna.address());
    let elsewhere = anna.run(&["init", "--peer", "peer.example.org", "--json"]);
    assert_eq!(elsewhere.code(), 8);
    assert_eq!(error(&elsewhere)["code"], "already-set-up");
}

#[test]
fn strangers_are_not_found() {
    let world = World::new();
    let anna = world.person("anna");
    let somebody = world.person("ben").address();
    for args in [
        &["send", "ben", "hi"][..],
        &["ping", "ben"],
        &["ping", &somebody],
        &["perf", "ben"],
        &["accept", "ben"],
        &["block", "ben"],
        &["verify", "ben"],
        &["chat", "ben"],
    ] {
        let ended = anna.run(&[args, &["--json"]].concat());
        assert_eq!(ended.code(), 3, "{args:?}: {}", ended.stderr());
        let error = error(&ended);
        assert_eq!((&error["code"], &error["exit"]), (&"unknown-contact".into(), &3.into()));
        assert!(error["help"].is_string());
    }
}

#[test]
fn wrong_addresses_are_explained() {
    let world = World::new();
    let anna = world.person("anna");
    let own = anna.address();
    let mut mistyped = world.person("ben").address();
    let last = if mistyped.pop() == Some('0') { '1' } else { '0' };
    mistyped.push(last);
    for (address, code, exit) in [
        ("peer.example.org", "address", 2),
        (world.peer.address.as_str(), "address", 2),
        (mistyped.as_str(), "address", 2),
        (own.as_str(), "own-address", 2),
    ] {
        let ended = anna.run(&["add", address, "--json"]);
        assert_eq!((ended.code(), &error(&ended)["code"]), (exit, &code.into()), "{address}");
    }
}

#[test]
fn one_home_has_one_node() {
    let world = World::new();
    let anna = world.person("anna");
    let daemon = anna.host(&["daemon"]);
    let second = anna.run(&["daemon", "--json"]);
    assert_eq!(second.code(), 8);
    let error = error(&second);
    assert_eq!(error["code"], "already-running");
    assert!(error["message"].as_str().unwrap().contains("halloo daemon"), "{error}");
    // Others share it.
    let listening = anna.host(&["listen"]);
    assert_eq!(listening.lines()[0]["hosted_by"], "daemon");
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.end(), 0, "{}", daemon.stderr());
    assert_eq!(listening.end(), 75, "what it read along with has stopped: {}", listening.stderr());

    let listening = anna.host(&["listen"]);
    assert_eq!(anna.run(&["listen"]).code(), 8, "two of them would both print");
    listening.signal(rustix::process::Signal::INT);
    assert_eq!(listening.end(), 130, "{}", listening.stderr());
    assert!(!anna.home.join("control.sock").exists(), "nothing is left behind");
}

#[test]
fn waiting_too_long_is_temporary() {
    let world = World::new();
    let (anna, _ben, _at_anna, at_ben) = world.friends();
    at_ben.kill();
    let ended =
        anna.run(&["send", "ben", "hi", "--wait", "delivered", "--timeout", "300ms", "--json"]);
    assert_eq!(ended.code(), 75, "{}", ended.stderr());
    assert_eq!(error(&ended)["code"], "kept-for-later");
    assert_eq!(error(&ended)["retryable"], true);
    let ended = anna.run(&["ping", "ben", "--count", "1", "--timeout", "300ms", "--json"]);
    assert_eq!(ended.code(), 4, "{}", ended.stderr());
    let summary = ended.lines().pop().unwrap();
    assert_eq!(summary["event"], "summary");
    assert!(summary["first_reply_ms"].is_null() && summary["direct_ms"].is_null());
}

#[test]
fn the_blocked_are_refused() {
    let world = World::new();
    let (anna, _ben, _at_anna, _at_ben) = world.friends();
    let blocked = anna.ok(&["block", "ben"]);
    assert_eq!(blocked[0]["state"], "blocked");
    let ended = anna.run(&["send", "ben", "hi", "--json"]);
    assert_eq!((ended.code(), &error(&ended)["code"]), (5, &"blocked".into()));
}

#[test]
fn three_wrong_codes_lock_the_comparison() {
    let world = World::new();
    let (anna, _ben, _at_anna, _at_ben) = world.friends();
    let mut codes = Vec::new();
    for _ in 0..3 {
        let at_anna = anna.start(&["verify", "ben"]);
        let code = at_anna.wait("code", |e| e["event"] == "code")["code"].clone();
        let wrong = (code.as_str().unwrap().parse::<u32>().unwrap() + 1) % 1_000_000;
        at_anna.say(&format!("{wrong:06}"));
        codes.push(at_anna.end());
    }
    assert_eq!(&codes[..2], [6, 6]);
    assert!([6, 7].contains(&codes[2]), "{codes:?}");
    let locked = anna.run(&["verify", "ben", "--json"]);
    assert_eq!((locked.code(), &error(&locked)["code"]), (7, &"safety-locked".into()));
}

#[test]
fn a_closed_pipe_ends_in_silence() {
    let world = World::new();
    let anna = world.person("anna");
    let shell = format!(
        "'{}' --home '{}' id | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_halloo"),
        anna.home.display()
    );
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &shell]);
    let output = finish(command);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0");
}
