//! What is made from the definition of the command line; and the demo.

use serde_json::Value;

use crate::harness::{finish, halloo};

fn run(args: &[&str]) -> String {
    let mut command = halloo();
    // Neither needs a home, but each program wants to know where it would be.
    command.args(args).env("HOME", "/nonexistent");
    let output = finish(command);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn shells_get_completions() {
    for (shell, mark) in
        [("bash", "complete -F"), ("zsh", "#compdef halloo"), ("fish", "complete -c halloo")]
    {
        let script = run(&["completions", shell]);
        assert!(script.contains(mark) && script.contains("verify"), "{shell}");
    }
}

#[test]
fn the_manual_lists_commands_and_exit_codes() {
    let page = run(&["man"]);
    assert!(page.contains(".TH halloo 1"), "{}", &page[..200]);
    for word in ["EXIT STATUS", "ENVIRONMENT", "FILES", "HALLOO_HOME", "verify", "130"] {
        assert!(page.contains(word), "{word}");
    }
    let dir = tempfile::tempdir().unwrap();
    run(&["man", "--dir", dir.path().to_str().unwrap()]);
    let ping = std::fs::read_to_string(dir.path().join("halloo-ping.1")).unwrap();
    assert!(ping.contains("interval"));
}

#[test]
fn the_demo_is_true() {
    let lines: Vec<Value> =
        run(&["demo", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, steps) = lines.split_last().unwrap();
    assert_eq!((&summary["event"], &summary["ok"]), (&"summary".into(), &true.into()));
    assert_eq!(summary["steps"], steps.len());
    assert!(steps.iter().all(|step| step["event"] == "step" && step["ok"] == true));
    for step in ["codes-are-equal", "message-direct", "no-plaintext", "no-sender", "exactly-once"] {
        assert!(steps.iter().any(|s| s["step"] == step), "{step}");
    }
    let story = run(&["demo"]);
    assert!(story.contains("Who saw what") && !story.contains('\u{1b}'), "{story}");
}
