//! Two people meet and talk.

use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Person, Process, World, text};

#[test]
fn two_people_meet_make_sure_and_talk() {
    let world = World::new();
    let (anna, ben) = (world.person("anna"), world.person("ben"));
    let at_anna = anna.host(&["listen"]);
    let at_ben = ben.host(&["listen"]);

    let added = anna.ok(&["add", &ben.address(), "--name", "ben", "--note", "It's me, Anna"]);
    assert_eq!((&added[0]["name"], &added[0]["state"]), (&"ben".into(), &"requested".into()));

    let request = at_ben.wait("request", |e| e["event"] == "request");
    assert_eq!((&request["from"], &request["note"]), (&"anna".into(), &"It's me, Anna".into()));
    let waiting = ben.ok(&["contacts"]);
    assert_eq!((&waiting[0]["name"], &waiting[0]["state"]), (&"anna".into(), &"incoming".into()));

    ben.ok(&["accept", "anna"]);
    at_anna.wait("acceptance", |e| e["event"] == "accepted" && e["contact"] == "ben");

    compare(&anna, &ben);
    for (person, name) in [(&anna, "ben"), (&ben, "anna")] {
        let contact = &person.ok(&["contacts"])[0];
        assert_eq!(contact["name"], name);
        assert_eq!(contact["checked"], true);
        assert!(text(&contact["verified"]).ends_with("by code"), "{contact}");
    }

    for (from, to, at, words) in
        [(&anna, "ben", &at_ben, "can you hear me?"), (&ben, "anna", &at_anna, "loud and clear")]
    {
        let told = from.ok(&["send", to, words, "--wait", "delivered"]);
        let sent = &told[0];
        assert_eq!((&sent["event"], &sent["to"]), (&"sent".into(), &to.into()));
        let delivered = told.last().unwrap();
        assert_eq!((&delivered["event"], &delivered["id"]), (&"delivered".into(), &sent["id"]));
        let message = at.wait("message", |e| e["event"] == "message");
        assert_eq!((&message["text"], &message["id"]), (&words.into(), &sent["id"]));
        assert!(
            message["mono_ns"].as_u64() > sent["mono_ns"].as_u64() || message["mono_ns"].is_u64()
        );
        assert!(["direct", "relay", "mailbox"].contains(&message["via"].as_str().unwrap()));
    }
}

/// Both look at the code, and each types what the other reads out.
fn compare(anna: &Person, ben: &Person) {
    let at_anna = anna.start(&["verify", "ben"]);
    let at_ben = ben.start(&["verify", "anna"]);
    let code = |at: &Process| at.wait("code", |e| e["event"] == "code");
    let (hers, his) = (code(&at_anna), code(&at_ben));
    assert_eq!(hers["code"], his["code"], "nobody stands between");
    assert_eq!(text(&hers["code"]).len(), 6);
    assert_ne!(hers["read_first"], his["read_first"], "one of them reads first");
    // A mere yes is not taken for an answer.
    at_anna.say("y");
    at_anna.say("");
    at_anna.say(&text(&his["code"]));
    at_ben.say(&text(&hers["code"]));
    for at in [&at_anna, &at_ben] {
        let checked = at.wait("result", |e| e["event"] == "checked");
        assert_eq!(checked["checked"], true);
        assert_eq!(at.end(), 0, "{}", at.stderr());
    }
}

#[test]
fn digits_can_be_given_as_an_option() {
    let world = World::new();
    let (anna, ben, _at_anna, _at_ben) = world.friends();
    let shown = |person: &Person, who: &str| {
        // Without an answer the comparison stays open.
        let ended = person.run(&["verify", who, "--json"]);
        assert_eq!(ended.code(), 75, "{}", ended.stderr());
        text(&ended.lines()[0]["code"])
    };
    let (hers, his) = (shown(&anna, "ben"), shown(&ben, "anna"));
    assert_eq!(hers, his);
    let at_anna = anna.start(&["verify", "ben", "--digits", &his]);
    let spaced = format!("{} {}", &hers[..3], &hers[3..]);
    let at_ben = ben.start(&["verify", "anna", "--digits", &spaced]);
    assert_eq!((at_anna.end(), at_ben.end()), (0, 0), "{}{}", at_anna.stderr(), at_ben.stderr());
}

#[test]
fn wrong_digits_stop_the_comparison_on_both_sides() {
    let world = World::new();
    let (anna, ben, _at_anna, _at_ben) = world.friends();
    let at_anna = anna.start(&["verify", "ben"]);
    let at_ben = ben.start(&["verify", "anna"]);
    let code = text(&at_anna.wait("code", |e| e["event"] == "code")["code"]);
    at_ben.wait("code", |e| e["event"] == "code");
    at_anna.say(&another(&code));
    assert_eq!(at_anna.end(), 6, "{}", at_anna.stderr());
    assert!(at_anna.stderr().contains("wrong-code"), "{}", at_anna.stderr());
    // Ben hears it while he is still being asked.
    assert_eq!(at_ben.end(), 6, "{}", at_ben.stderr());
    assert_eq!(anna.ok(&["contacts"])[0]["checked"], false);
    assert_eq!(ben.ok(&["contacts"])[0]["checked"], false);
}

fn another(code: &str) -> String {
    let n: u32 = code.parse().unwrap();
    format!("{:06}", (n + 1) % 1_000_000)
}

#[test]
fn both_see_the_same_long_number() {
    let world = World::new();
    let (anna, ben, _at_anna, _at_ben) = world.friends();
    let number =
        |person: &Person, who: &str| text(&person.ok(&["verify", who, "--number"])[0]["number"]);
    let hers = number(&anna, "ben");
    assert_eq!(hers, number(&ben, "anna"));
    assert_eq!(hers.chars().filter(char::is_ascii_digit).count(), 60);
}

#[test]
fn commands_work_without_a_running_node() {
    let world = World::new();
    let (anna, ben) = (world.person("anna"), world.person("ben"));
    // A peer knows only who has been there.
    ben.ok(&["contacts"]);
    anna.ok(&["add", &ben.address(), "--name", "ben"]);
    // Their nodes run only while their commands do: both look until the request is there, which
    // waits at Anna's while the peer has not seen Ben.
    let request = until(|| {
        anna.ok(&["contacts"]);
        ben.ok(&["contacts"]).into_iter().next()
    });
    assert_eq!(request["state"], "incoming");
    ben.ok(&["accept", "anna"]);
    until(|| anna.ok(&["contacts"]).into_iter().find(|c| c["state"] == "accepted"));
    let sent = anna.ok(&["send", "ben", "for later", "--wait", "peer"]);
    assert_eq!(sent.last().unwrap()["event"], "at-peer");
    let at_ben = ben.host(&["listen"]);
    let message = at_ben.wait("message", |e| e["event"] == "message");
    assert_eq!((&message["text"], &message["via"]), (&"for later".into(), &"mailbox".into()));
}

/// Asks again and again until there is an answer.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + crate::harness::DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(std::time::Instant::now() < end, "no answer in time");
    }
}

#[test]
fn listen_goes_on_where_it_stopped() {
    let world = World::new();
    let (anna, ben, _at_anna, at_ben) = world.friends();
    anna.ok(&["send", "ben", "one", "--wait", "delivered"]);
    at_ben.wait("one", |e| e["text"] == "one");
    at_ben.signal(rustix::process::Signal::TERM);
    assert_eq!(at_ben.end(), 0, "a supervisor's stop is no failure: {}", at_ben.stderr());

    // Two arrives while another command runs Ben's node; nobody sees it there.
    anna.ok(&["send", "ben", "two"]);
    until(|| {
        let state = anna.run(&[
            "send",
            "ben",
            "two-and-a-half",
            "--key",
            "k",
            "--wait",
            "delivered",
            "--timeout",
            "200ms",
        ]);
        ben.ok(&["contacts"]);
        (state.code() == 0).then_some(())
    });
    let again = ben.host(&["listen"]);
    anna.ok(&["send", "ben", "three", "--wait", "delivered"]);
    again.wait("three", |e| e["text"] == "three");
    assert_eq!(again.messages(), ["two", "two-and-a-half", "three"]);
}

#[test]
fn the_echo_answers_each_message_once() {
    let world = World::new();
    let (anna, ben) = (world.person("anna"), world.person("ben"));
    let at_anna = anna.host(&["listen"]);
    let _at_ben = ben.host(&["listen", "--echo", "--accept-all"]);
    anna.ok(&["add", &ben.address(), "--name", "ben"]);
    at_anna.wait("acceptance", |e| e["event"] == "accepted");
    let sent = anna.ok(&["send", "ben", "echo me", "--wait", "delivered"]);
    let echo = at_anna.wait("echo", |e| e["event"] == "message");
    assert_eq!((&echo["text"], &echo["parent"]), (&"echo me".into(), &sent[0]["id"]));
}

#[test]
fn a_key_sends_once() {
    let world = World::new();
    let (anna, _ben, _at_anna, at_ben) = world.friends();
    let send =
        || anna.ok(&["send", "ben", "once", "--key", "k1", "--wait", "delivered"])[0]["id"].clone();
    assert_eq!(send(), send());
    anna.ok(&["send", "ben", "end", "--wait", "delivered"]);
    at_ben.wait("end", |e| e["text"] == "end");
    let once = at_ben.lines().iter().filter(|e| e["text"] == "once").count();
    assert_eq!(once, 1);
}

#[test]
fn a_text_comes_from_standard_input_whole_or_line_by_line() {
    let world = World::new();
    let (anna, _ben, _at_anna, at_ben) = world.friends();
    for (args, texts) in [
        (&["send", "ben", "-"][..], &["first\nsecond"][..]),
        (&["send", "ben", "-", "--lines"][..], &["third", "fourth"][..]),
    ] {
        let sending = anna.start(&[args, &["--wait", "delivered"]].concat());
        for line in texts.iter().flat_map(|text| text.split('\n')) {
            sending.say(line);
        }
        sending.hang_up();
        assert_eq!(sending.end(), 0, "{}", sending.stderr());
        for text in texts {
            at_ben.wait(text, |e| e["text"] == *text);
        }
    }
}

#[test]
fn ping_ends_with_a_summary() {
    let world = World::new();
    let (anna, _ben, _at_anna, _at_ben) = world.friends();
    let lines = anna.ok(&["ping", "ben", "--count", "5", "--interval", "100ms"]);
    let pongs: Vec<&Value> = lines.iter().filter(|e| e["event"] == "pong").collect();
    assert_eq!(pongs.len(), 5);
    let summary = lines.last().unwrap();
    assert_eq!((&summary["event"], &summary["schema"]), (&"summary".into(), &1.into()));
    assert_eq!((&summary["sent"], &summary["received"]), (&5.into(), &5.into()));
    assert!(summary["first_reply_ms"].as_f64().unwrap() > 0.0);
    assert!(summary["direct_ms"].as_f64().is_some(), "loopback allows a direct path: {summary}");
    assert_eq!(summary["path"], "direct");
}

#[test]
fn perf_measures_both_ways() {
    let world = World::new();
    let (anna, _ben, _at_anna, _at_ben) = world.friends();
    for args in [
        &["perf", "ben", "--duration", "300ms"][..],
        &["perf", "ben", "--duration", "300ms", "--reverse"],
    ] {
        let lines = anna.ok(args);
        let summary = lines.last().unwrap();
        assert_eq!((&summary["event"], &summary["path"]), (&"summary".into(), &"direct".into()));
        assert!(summary["bytes"].as_u64().unwrap() > 0);
        assert!(summary["mib_per_s"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn people_chat_line_by_line() {
    let world = World::new();
    let (anna, ben) = (world.person("anna"), world.person("ben"));
    anna.ok(&["add", &ben.address(), "--name", "ben"]);
    let at_ben = ben.host(&["listen", "--accept-all"]);
    until(|| anna.ok(&["contacts"]).into_iter().find(|c| c["state"] == "accepted"));
    // The chat hosts Anna's node; Ben's uses the one that listens.
    let hers = anna.start(&["chat", "ben"]);
    let his = ben.start(&["chat", "anna"]);
    hers.say("hello");
    his.wait("hello", |e| e["event"] == "message" && e["text"] == "hello");
    his.say("hello yourself");
    hers.wait("answer", |e| e["event"] == "message" && e["text"] == "hello yourself");
    for chat in [&hers, &his] {
        chat.hang_up();
        assert_eq!(chat.end(), 0, "{}", chat.stderr());
    }
    at_ben.wait("hello", |e| e["text"] == "hello");
}

#[test]
fn words_for_people_are_plain_and_safe() {
    let world = World::new();
    let (anna, ben) = (world.person("anna"), world.person("ben"));
    // Ben gives himself a name that would clear the screen and reverse the line.
    ben.ok(&["init", "--name", "Ben\u{202e}x\u{200b}"]);
    let at_ben = ben.host(&["listen", "--accept-all"]);
    anna.ok(&["add", &ben.address(), "--name", "ben"]);
    until(|| anna.ok(&["contacts"]).into_iter().find(|c| c["state"] == "accepted"));
    let listed = anna.run(&["contacts"]);
    assert!(listed.stdout().starts_with("? ben  accepted"), "{}", listed.stdout());
    let json = anna.run(&["contacts", "--json"]).stdout();
    assert!(!json.contains('\u{202e}') && json.contains("\\u202e"), "{json}");
    drop(at_ben);

    let mut shown = anna.command(&["listen"]);
    shown.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut shown = shown.spawn().unwrap();
    ben.ok(&["send", "anna", "one\u{1b}[2J\ntwo", "--wait", "delivered"]);
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(shown.stdout.take().unwrap());
    while !line.contains("two") {
        line.clear();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
    assert!(line.starts_with("  | two"), "{line:?}");
    shown.kill().unwrap();
    shown.wait().unwrap();
}
